"""`unipinrec serve` with a real server: what it prints, how it ends, and what it starts again."""

import json
import shlex
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from ensemble.server.endpoints import Endpoints
from ensemble.server.launcher import FAILED_STARTS
from tests.served.exchange import exchange
from tests.served.launched import NODE, NODE_CONFIG, Launcher, alive, infer, write_deployment, write_model
from tests.support.waiting import holds_within

USER = {"name": "USER_ID", "datatype": "BYTES", "shape": [1, 1], "data": ["someone"]}


@pytest.fixture
def endpoints() -> Endpoints:
    return Endpoints.free()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_deployment(tmp_path)


@pytest.fixture
def launch(folder: Path) -> Iterator[Callable[[Endpoints], Launcher]]:
    launched: list[Launcher] = []

    def start(endpoints: Endpoints) -> Launcher:
        launched.append(Launcher(folder, endpoints))
        return launched[-1]

    yield start
    for launcher in launched:
        if launcher.process.poll() is None:
            launcher.stop(signal.SIGTERM)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_printed_request_works_and_a_signal_leaves_nothing(
    launch: Callable[[Endpoints], Launcher], endpoints: Endpoints, number: signal.Signals
) -> None:
    launcher = launch(endpoints)
    printed = launcher.wait_for("curl")
    assert f"unipinrec-client recommend --user 'user 7' --url {endpoints.grpc_url}" in printed
    _, _, url, _, body = shlex.split(next(line for line in printed.splitlines() if "curl" in line))
    assert json.loads(exchange("POST", url, body)[1])["outputs"][0]["data"] == ["user 7"]

    processes = launcher.processes()
    assert len(processes) == 4
    assert launcher.stop(number) == 0
    assert launcher.output.endswith("Stopped.\n")
    assert alive(processes) == []
    assert launcher.left_in_shared_memory() == []


def test_without_a_store_it_serves_and_says_so_once(
    launch: Callable[[Endpoints], Launcher], folder: Path, endpoints: Endpoints
) -> None:
    shutil.rmtree(folder / "histories")
    printed = launch(endpoints).wait_for("curl")
    assert printed.count(f"Warning: no store of histories at {folder / 'histories'}: ") == 1
    assert f"unipinrec-client recommend --user 42 --url 127.0.0.1:{endpoints.grpc_port}" in printed


def test_restarts_at_once_on_the_same_ports(
    launch: Callable[[Endpoints], Launcher], endpoints: Endpoints
) -> None:
    for _ in range(2):
        launcher = launch(endpoints)
        launcher.wait_for("Serving after")
        infer(endpoints, "someone")
        assert launcher.stop(signal.SIGINT) == 0


def test_second_launcher_names_the_taken_port(
    launch: Callable[[Endpoints], Launcher], endpoints: Endpoints
) -> None:
    launch(endpoints).wait_for("Serving after")
    second = launch(endpoints)
    assert second.process.wait(timeout=30) == 1
    assert second.output == (
        f"--http-port is {endpoints.http_port}, which another process listens on; "
        "stop it or pass another --http-port\n"
    )


def test_signal_while_loading_stops_cleanly(
    launch: Callable[[Endpoints], Launcher], folder: Path, endpoints: Endpoints
) -> None:
    write_model(folder, "second", NODE_CONFIG.format(name="second"), NODE.format(load_s=4))
    launcher = launch(endpoints)
    assert holds_within(30, lambda: launcher.server() is not None)
    processes = launcher.processes()
    assert launcher.stop(signal.SIGINT) == 0
    assert "Serving after" not in launcher.output
    assert launcher.output.endswith("Stopped.\n")
    assert alive(processes) == []
    assert launcher.left_in_shared_memory() == []


def test_model_that_cannot_load_is_named_in_one_line(
    launch: Callable[[Endpoints], Launcher], folder: Path, endpoints: Endpoints
) -> None:
    write_model(folder, "second", NODE_CONFIG.format(name="second"), "import no_such_module\n")
    launcher = launch(endpoints)
    assert launcher.process.wait(timeout=60) == 1
    last = launcher.output.splitlines()[-1]
    assert last.startswith("server stopped by exit code 1; failed to load 'second' version 1: ")
    assert "No module named 'no_such_module'; " in last
    assert launcher.left_in_shared_memory() == []


def test_killed_launcher_takes_the_server_along_and_the_next_start_cleans_up(
    launch: Callable[[Endpoints], Launcher], endpoints: Endpoints
) -> None:
    killed = launch(endpoints)
    killed.wait_for("Serving after")
    processes = killed.processes()
    killed.node("second").send_signal(signal.SIGSTOP)
    killed.stop(signal.SIGKILL)
    launch(endpoints).wait_for("Serving after")
    assert alive(processes) == []
    assert killed.left_in_shared_memory() == []


def test_a_launcher_whose_reaper_was_killed_too_leaves_what_the_next_start_removes(
    launch: Callable[[Endpoints], Launcher], endpoints: Endpoints
) -> None:
    killed = launch(endpoints)
    killed.wait_for("Serving after")
    processes = killed.processes()
    next(process for process in processes if "reaper.py" in " ".join(process.cmdline())).kill()
    killed.stop(signal.SIGKILL)
    assert holds_within(30, lambda: not alive(processes))
    assert killed.left_in_shared_memory()
    launch(endpoints).wait_for("Serving after")
    assert killed.left_in_shared_memory() == []


def test_a_killed_server_comes_back_each_time(
    launch: Callable[[Endpoints], Launcher], endpoints: Endpoints
) -> None:
    """Three requests that Triton 2.51 does not survive, and a kill; then it is back on the same ports."""
    launcher = launch(endpoints)
    launcher.wait_for("Serving after")
    first = launcher.processes()
    http_address = (endpoints.address, endpoints.http_port)
    killed: list[tuple[int, Callable[[], None]]] = [
        (signal.SIGFPE, lambda: ask_for_classes(http_address)),
        (signal.SIGSEGV, lambda: overflow_a_shape(http_address)),
        (signal.SIGSEGV, lambda: send_in_crumbs(http_address)),
        (signal.SIGKILL, launcher.kill_server),
    ]
    for times, (number, kill) in enumerate(killed, start=2):
        kill()
        launcher.wait_for("Serving after", times)
        assert infer(endpoints, "someone") == "someone"
        line = launcher.output.splitlines()[-2]
        assert line.startswith(f"server stopped by signal {number}; log: ")
        assert "; starting it again in 0" in line
    assert alive(first) == []


def test_a_server_that_cannot_start_again_ends_with_the_reason_after_some_tries(
    launch: Callable[[Endpoints], Launcher], folder: Path, endpoints: Endpoints
) -> None:
    launcher = launch(endpoints)
    launcher.wait_for("Serving after")
    write_model(folder, "second", NODE_CONFIG.format(name="second"), "import no_such_module\n")
    launcher.kill_server()
    assert launcher.process.wait(timeout=120) == 1
    assert launcher.output.count("starting it again") == FAILED_STARTS
    assert "No module named 'no_such_module'; " in launcher.output.splitlines()[-1]
    assert launcher.left_in_shared_memory() == []


def test_signal_while_a_killed_server_comes_back_stops_cleanly(
    launch: Callable[[Endpoints], Launcher], folder: Path, endpoints: Endpoints
) -> None:
    launcher = launch(endpoints)
    launcher.wait_for("Serving after")
    write_model(folder, "second", NODE_CONFIG.format(name="second"), NODE.format(load_s=4))
    launcher.kill_server()
    launcher.wait_for("starting it again")
    assert launcher.stop(signal.SIGINT) == 0
    assert launcher.output.endswith("Stopped.\n")
    assert launcher.output.count("Serving after") == 1
    assert launcher.left_in_shared_memory() == []


def ask_for_classes(address: tuple[str, int]) -> None:
    """Classification, which Triton has for numbers, of an output of texts."""
    output = {"name": "ITEM_IDS", "parameters": {"classification": 1}}
    send(address, json.dumps({"inputs": [USER], "outputs": [output]}))


def overflow_a_shape(address: tuple[str, int]) -> None:
    """2^62 numbers of 8 bytes, whose bytes 64 bits cannot count."""
    numbers = {"name": "X", "datatype": "INT64", "shape": [1, 2**62], "data": [1]}
    send(address, json.dumps({"inputs": [USER, numbers]}))


def send_in_crumbs(address: tuple[str, int]) -> None:
    """A request in 600,000 chunks of one byte."""
    body = json.dumps({"inputs": [USER]}).encode().ljust(600_000)
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body)
    send(address, chunks + b"0\r\n\r\n", b"Transfer-Encoding: chunked")


def send(address: tuple[str, int], body: str | bytes, length: bytes | None = None) -> None:
    """Posts to the ensemble, and waits for the connection's end."""
    content = body.encode() if isinstance(body, str) else body
    length = length or b"Content-Length: %d" % len(content)
    head = b"POST /v2/models/recommend/infer HTTP/1.1\r\nHost: a\r\n" + length + b"\r\n\r\n"
    with socket.create_connection(address, timeout=20) as connection, suppress(ConnectionError):
        connection.sendall(head + content)
        assert connection.recv(1) == b"", "the server was to die"
