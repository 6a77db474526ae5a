"""Which addresses each protocol takes, before anything is dialled, and which way a request then goes."""

import socket
import subprocess
import sys
import threading
from contextlib import contextmanager

import pytest
from unipinrec_client import (
    GrpcClient,
    HttpClient,
    RecommendRequest,
    UnavailableError,
)

from tests.support.triton_servers import GrpcServer, expected, free_port
from tests.unit.client.calls import ALL, GRPC, HTTP, ONCE, ask


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost",
        ":8001",
        "127.0.0.1:",
        "127.0.0.1:abc",
        "127.0.0.1:0",
        "127.0.0.1:65536",
        "127.0.0.1:99999",
        "127.0.0.1:-1",
        "::1:8001",
        "[::1",
        "[zz]:8001",
        "http://[::1",
        "ftp://localhost:8001",
        "https://localhost:8001",
        "http://http://localhost:8001",
        "user:secret@localhost:8001",
        "localhost:8001?model=a",
        "local host:8001",
        "localhost:8001\n",
        None,
        8001,
    ],
)
def test_what_is_no_address_is_refused_with_its_value(kind, url):
    with pytest.raises(ValueError, match=r"^url is ") as refused:
        kind(url)
    assert str(refused.value).startswith(f"url is {url!r}; allowed: host:port with a port of 1 to 65535")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("127.0.0.1:8001/", "dns:///host:port"),
        ("http://127.0.0.1:8001/", "dns:///host:port"),
        ("dns:///service", "dns:///host:port"),
        ("dns:8001", "dns:///host:port"),
        ("dns:///a:8001,b:8001", "dns:///host:port"),
        ("ipv4:service:8001", "ipv4:address:port"),
        ("ipv4:127.0.0.1", "ipv4:address:port"),
        ("ipv6:127.0.0.1:8001", "ipv4:address:port"),
        ("unix:", "unix:///path"),
    ],
)
@pytest.mark.parametrize("kind", GRPC)
def test_a_target_of_grpc_without_a_port_or_name_is_refused(kind, url, message):
    with pytest.raises(ValueError, match=message):
        kind(url)


@pytest.mark.parametrize(
    "url",
    ["dns:///service:8001", "dns://10.0.0.1/service:8001", "ipv6:[::1]:8001,[::2]:8001", "xds:///service"],
)
def test_targets_of_grpc_are_taken_as_they_are(url):
    with GrpcClient(url) as client:
        assert client.url == url
    with pytest.raises(ValueError, match="allowed: host:port"):
        HttpClient(url)


@pytest.mark.parametrize("kind", GRPC)
@pytest.mark.parametrize("form", ["{}", "http://{}", "dns:///{}", "dns:{}", "ipv4:{}"])
def test_a_server_is_reached_by_every_form_of_its_address(grpc_server, kind, form):
    assert ask(kind, form.format(grpc_server.url)) == expected("42", 42)


@pytest.mark.parametrize("kind", HTTP)
@pytest.mark.parametrize("form", ["{}", "http://{}", "{}/", "http://{}/"])
def test_an_http_server_is_reached_by_every_form_of_its_address(http_server, kind, form):
    assert ask(kind, form.format(http_server.url)) == expected("42", 42)


@pytest.mark.parametrize("kind", GRPC)
@pytest.mark.parametrize("form", ["unix:{}", "unix://{}"])
def test_a_server_is_reached_at_a_unix_socket(tmp_path, kind, form):
    path = tmp_path / "socket"
    server = GrpcServer(f"unix:{path}")
    assert ask(kind, form.format(path)) == expected("42", 42)
    server.stop()


@pytest.mark.parametrize("kind", GRPC)
def test_servers_behind_one_target_are_asked_in_turn(kind):
    servers = [GrpcServer(), GrpcServer()]
    url = "ipv4:" + ",".join(server.url for server in servers)
    ask(kind, url, *[RecommendRequest(user_id="42")] * 20)
    # The first calls go to whichever is connected first.
    assert all(len(server.received) >= 5 for server in servers)
    for server in servers:
        server.stop()


@pytest.fixture
def dead_proxy(monkeypatch):
    for name in ("http_proxy", "https_proxy", "grpc_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    for name in ("no_proxy", "NO_PROXY", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("dead_proxy")
@pytest.mark.parametrize(
    "form", ["127.0.0.1:{}", "localhost:{}", "dns:///localhost:{}", "0.0.0.0:{}", "ipv4:127.0.0.1:{}"]
)
@pytest.mark.parametrize("kind", GRPC)
def test_no_proxy_is_asked_on_the_way_to_this_machine(grpc_server, kind, form):
    port = grpc_server.url.rpartition(":")[2]
    assert ask(kind, form.format(port), retry=ONCE) == expected("42", 42)


@pytest.mark.usefixtures("dead_proxy")
@pytest.mark.parametrize("kind", HTTP)
def test_no_proxy_is_asked_over_http(http_server, kind):
    assert ask(kind, http_server.url, retry=ONCE) == expected("42", 42)


@contextmanager
def proxy_that_refuses():
    """A proxy's port, and the first line that each caller sends."""
    asked = []
    listener = socket.create_server(("127.0.0.1", 0))

    def refuse():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            asked.append(connection.recv(4096).split(b"\r\n")[0].decode())
            connection.sendall(b"HTTP/1.1 403 Forbidden\r\n\r\n")
            connection.close()

    thread = threading.Thread(target=refuse)
    thread.start()
    yield listener.getsockname()[1], asked
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


@pytest.mark.usefixtures("dead_proxy")
@pytest.mark.parametrize("url", ["server.example:8001", "10.1.2.3:8001", "localhost.example:8001"])
def test_a_proxy_is_asked_on_the_way_to_other_machines(monkeypatch, url):
    with proxy_that_refuses() as (port, asked):
        for name in ("grpc_proxy", "https_proxy", "http_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{port}")
        with pytest.raises(UnavailableError):
            ask(GrpcClient, url, timeout_s=5.0, retry=ONCE)
    assert asked[0] == f"CONNECT {url} HTTP/1.1"


def test_the_command_refuses_an_address_in_one_line():
    # In a process of its own: what destructors complain of comes at its end.
    command = [
        sys.executable,
        "-m",
        "unipinrec_client",
        "health",
        "--protocol",
        "http",
        "--url",
        "127.0.0.1:abc",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("url is '127.0.0.1:abc'; allowed: host:port with a port of 1 to 65535")
