"""A load target that is no server of this protocol, at the start of a run and in the middle of one."""

import signal
import socket
from pathlib import Path

import pytest
from typer.testing import CliRunner

from commands.app import app
from loadtest.plan import LoadPlan, Protocol
from loadtest.sender import NO_ANSWER, NO_CONNECTION, connect
from loadtest.traffic import Kind, Visit
from tests.support.triton_servers import GrpcServer, HttpServer
from tests.unit.client.test_client_transport import answering, http

ODD_ANSWERS = [
    b"",
    b"SSH-2.0-OpenSSH_9.9\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\ncut",
    http(b"[]"),
    http(b"{}"),
    http(b"<html>"),
]


@pytest.fixture
def traffic(tmp_path: Path) -> Path:
    path = tmp_path / "traffic.jsonl"
    path.write_text('{"user_id": "a", "item_ids": [1], "actions": [1], "timestamps": [1]}\n')
    return path


def refusal(traffic: Path, *arguments: str) -> str:
    """The one line that a load test ends with before it has begun."""
    previous = signal.getsignal(signal.SIGTERM)
    fixed = ("--traffic", str(traffic), "--out", str(traffic.parent / "out"))
    try:
        result = CliRunner().invoke(app, ["loadtest", *fixed, *arguments])
    finally:
        signal.signal(signal.SIGTERM, previous)
    assert result.exit_code == 2, result.output
    assert result.stderr.count("\n") == 1
    return result.stderr


def test_the_port_of_the_other_protocol_is_refused(traffic: Path) -> None:
    grpc_server, http_server = GrpcServer(), HttpServer()
    for protocol, url in (("http", grpc_server.url), ("grpc", http_server.url)):
        line = refusal(traffic, "--protocol", protocol, "--url", url)
        assert line.startswith(f"--url is {url}, where no server answers over {protocol}: ")
        assert line.endswith(f"; allowed: host:port of its {protocol} endpoint\n")
    grpc_server.stop()
    http_server.stop()


@pytest.mark.parametrize("answer", ODD_ANSWERS)
@pytest.mark.parametrize("protocol", list(Protocol))
def test_whatever_else_answers_is_refused(traffic: Path, protocol: Protocol, answer: bytes) -> None:
    with answering(answer) as url:
        line = refusal(traffic, "--protocol", protocol, "--url", url)
    assert line.startswith(f"--url is {url}, where no server answers over {protocol}: ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--url", "127.0.0.1:99999"), "url is '127.0.0.1:99999'; allowed: host:port"),
        (("--url", "127.0.0.1:8001/"), "url is '127.0.0.1:8001/'; allowed: host:port"),
        (("--url", "https://127.0.0.1:8001"), "url is 'https://127.0.0.1:8001'; allowed: host:port"),
        (("--url", "http://[::1", "--protocol", "http"), "url is 'http://[::1'; allowed: host:port"),
        (("--url", "127.0.0.1:8001", "--timeout", "inf"), "timeout_s is inf; allowed: more than 0"),
    ],
)
def test_what_no_request_can_be_sent_to_is_refused(
    traffic: Path, arguments: tuple[str, ...], message: str
) -> None:
    assert refusal(traffic, *arguments).startswith(message)


@pytest.mark.parametrize("answer", ODD_ANSWERS)
@pytest.mark.parametrize("protocol", list(Protocol))
def test_an_odd_answer_fails_its_request_and_no_other(protocol: Protocol, answer: bytes) -> None:
    with answering(answer) as url:
        sender = connect(LoadPlan(url=url, protocol=protocol, timeout_s=3.0))
        prepared = sender.prepare(Visit(Kind.NEW, "42", None))
        assert [sender.send(prepared).status for _ in range(2)] == [NO_CONNECTION] * 2


def test_no_answer_over_http_ends_at_the_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"127.0.0.1:{silent.getsockname()[1]}"
        sender = connect(LoadPlan(url=url, protocol=Protocol.HTTP, timeout_s=0.1))
        assert sender.send(sender.prepare(Visit(Kind.NEW, "42", None))).status == NO_ANSWER
