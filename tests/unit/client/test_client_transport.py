"""Whatever answers at an address, a client raises an error of its own family, and in time."""

import json
import socket
import threading
from contextlib import contextmanager, suppress

import pytest
from unipinrec_client import (
    RecommendError,
    UnavailableError,
)

from tests.unit.client.calls import ALL, GRPC, HTTP, ONCE, ask, call


@contextmanager
def answering(answer):
    """The port of a server that sends the same bytes to whatever it is asked."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection, suppress(OSError):
                connection.settimeout(5)
                connection.recv(65536)
                connection.sendall(answer)
                connection.shutdown(socket.SHUT_WR)
                # Closing with unread bytes would reset the connection before the answer is read.
                while connection.recv(65536):
                    pass

    thread = threading.Thread(target=serve)
    thread.start()
    yield f"127.0.0.1:{listener.getsockname()[1]}"
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


def http(body, *headers):
    lines = ["HTTP/1.1 200 OK", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def http_error(body):
    return b"HTTP/1.1 500 Wrong\r\nContent-Length: %d\r\n\r\n" % len(body) + body


def output(**fields):
    return json.dumps({"outputs": [{"name": "ITEM_IDS"} | fields]}).encode()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"SSH-2.0-OpenSSH_9.9\r\n",
        b"\x00\x00\x18\x04\x00\x00\x00\x00\x00\x00\x04\x00\x3f\xff\xff",
        b"\x15\x03\x01\x00\x02\x02\x46",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\ncut",
        b"HTTP/1.1 200 OK\r\nContent-Length: wide\r\n\r\n",
    ],
    ids=["nothing", "ssh", "http2", "tls", "cut", "length"],
)
@pytest.mark.parametrize("kind", ALL)
def test_what_is_not_http_is_unavailable(kind, answer):
    with answering(answer) as url, pytest.raises(UnavailableError) as raised:
        ask(kind, url, timeout_s=3.0, retry=ONCE)
    assert str(raised.value)


@pytest.mark.parametrize(
    "answer", [http_error(body) for body in (b"[]", b"\xff", b'"text"')], ids=["list", "bytes", "text"]
)
@pytest.mark.parametrize("kind", HTTP)
def test_an_error_in_another_form_keeps_its_status(kind, answer):
    with answering(answer) as url, pytest.raises(RecommendError) as raised:
        ask(kind, url, timeout_s=3.0, retry=ONCE)
    assert raised.value.status == "500"


@pytest.mark.parametrize("kind", HTTP)
def test_the_port_of_grpc_is_named_as_no_http(grpc_server, kind):
    url = grpc_server.url
    with pytest.raises(UnavailableError, match=f"^url is '{url}', where no HTTP is spoken; allowed: "):
        ask(kind, url, retry=ONCE)


@pytest.mark.parametrize("kind", GRPC)
def test_the_port_of_http_is_unavailable(http_server, kind):
    with pytest.raises(UnavailableError):
        ask(kind, http_server.url, timeout_s=3.0, retry=ONCE)


@pytest.mark.parametrize(
    "answer",
    [
        http(b"[]"),
        http(b"5"),
        http(b"null"),
        http(b"{}"),
        http(b'{"outputs": 5}'),
        http(b'{"outputs": [5]}'),
        http(b'{"outputs": [{}]}'),
        http(output()),
        http(output(datatype="NONE", shape=[1, 1], data=[1])),
        http(output(datatype="INT64", shape=[1, 2], data=[1])),
        http(output(datatype="INT64", shape=["x"], data=[1])),
        http(output(datatype="INT64", shape=[1, 1], parameters={"binary_data_size": 8})),
        http(b"{}", "Inference-Header-Content-Length: x"),
        http(b"{}", "Inference-Header-Content-Length: 999"),
        http(b"{}", "Content-Encoding: gzip"),
    ],
)
@pytest.mark.parametrize("kind", HTTP)
def test_an_answer_that_is_not_tritons_is_an_error(kind, answer):
    with answering(answer) as url, pytest.raises(RecommendError):
        ask(kind, url, timeout_s=3.0, retry=ONCE)


@pytest.mark.parametrize("kind", ALL)
def test_what_is_not_http_is_not_ready(kind):
    with answering(b"SSH-2.0-OpenSSH_9.9\r\n") as url:
        assert call(kind, url, "ready", timeout_s=3.0, retry=ONCE) is False
