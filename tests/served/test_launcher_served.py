"""The launcher with a real server: an ensemble `recommend` of two Python nodes that echo the user id."""

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import psutil
import pytest
import tritonclient.grpc as triton

from ensemble.server.embedded_server import EmbeddedServer
from ensemble.server.endpoints import Endpoints
from ensemble.server.launcher import UserCanary
from ensemble.server.server_error import ServerError
from ensemble.server.watchdog import Watchdog
from ensemble.settings import ROOT, SHARED_MEMORY, ServingSettings
from ensemble.stores.history_store import EVENT
from ensemble.stores.lmdb_store import LmdbHistoryStore

NODE = """
import os, sys, time
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, args):
        time.sleep({load_s})

    def execute(self, requests):
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", self.answer(r))]) for r in requests]

    def answer(self, request):
        user = pb_utils.get_input_tensor_by_name(request, "IN").as_numpy()
        told = {{
            b"prefix": sys.prefix,
            b"numpy": np.__version__,
            b"slots": os.environ["UNIPINREC_POOL_SLOTS"],
            b"runtime": os.environ["UNIPINREC_RUNTIME_DIR"],
        }}
        return np.vectorize(lambda name: told.get(name, name), otypes=[np.object_])(user)
"""
NODE_CONFIG = """
name: "{name}"
backend: "python"
max_batch_size: 4
input [ {{ name: "IN" data_type: TYPE_STRING dims: [ 1 ] }} ]
output [ {{ name: "OUT" data_type: TYPE_STRING dims: [ 1 ] }} ]
instance_group [ {{ kind: KIND_CPU }} ]
"""
ENSEMBLE_CONFIG = """
name: "recommend"
platform: "ensemble"
max_batch_size: 4
input [ { name: "USER_ID" data_type: TYPE_STRING dims: [ 1 ] } ]
output [ { name: "ITEM_IDS" data_type: TYPE_STRING dims: [ 1 ] } ]
ensemble_scheduling { step [
  { model_name: "first" model_version: -1
    input_map { key: "IN" value: "USER_ID" } output_map { key: "OUT" value: "BETWEEN" } },
  { model_name: "second" model_version: -1
    input_map { key: "IN" value: "BETWEEN" } output_map { key: "OUT" value: "ITEM_IDS" } }
] }
"""
USER = {"name": "USER_ID", "datatype": "BYTES", "shape": [1, 1], "data": ["someone"]}
LAUNCHER = """
import sys
from pathlib import Path
from rich.console import Console
from ensemble.server.endpoints import Endpoints
from ensemble.server.launcher import serve
from ensemble.server.restarts import Restarts
from ensemble.server.server_error import ServerError
from ensemble.settings import ServingSettings

folder, http_port, grpc_port, metrics_port = Path(sys.argv[1]), *map(int, sys.argv[2:])
try:
    serve(
        ServingSettings(bundle=folder / "bundle", histories=folder / "histories"),
        console=Console(),
        endpoints=Endpoints(http_port=http_port, grpc_port=grpc_port, metrics_port=metrics_port),
        model_repository=folder / "models",
        log_path=folder / "server.log",
        restarts=Restarts((0.0, 0.0, 0.0, 0.0)),
    )
except ServerError as error:
    sys.exit(str(error))
"""

NO_PROXY_THERE = "http://127.0.0.1:9"
"""What a machine's environment may say of the way out: no server of this machine is reached by it."""


class Launcher:
    """`serve` in a process of its own, as a user runs it."""

    def __init__(self, folder: Path, endpoints: Endpoints) -> None:
        self._output = folder / f"launcher-{time.monotonic_ns()}.txt"
        ports = [str(port) for port in endpoints.ports.values()]
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-c", LAUNCHER, str(folder), *ports],
                cwd=ROOT,
                env=os.environ | {"PYTHONUNBUFFERED": "1", "http_proxy": NO_PROXY_THERE, "no_proxy": ""},
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @property
    def output(self) -> str:
        return self._output.read_text()

    def server(self) -> psutil.Process | None:
        children = psutil.Process(self.process.pid).children()
        return next((child for child in children if child.name() == "tritonserver"), None)

    def wait_for(self, text: str) -> str:
        wait_until(lambda: text in self.output or self.process.poll() is not None, 60)
        assert text in self.output, self.output
        return self.output

    def wait_until_served(self, times: int) -> None:
        """Waits until a server has come to serve that often."""
        wait_until(lambda: self.output.count("Serving after") >= times or self.process.poll() is not None, 60)
        assert self.output.count("Serving after") == times, self.output

    def kill_server(self) -> None:
        server = self.server()
        assert server is not None
        server.kill()

    def stop(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(timeout=30)

    def left_in_shared_memory(self) -> list[str]:
        return [path.name for path in SHARED_MEMORY.iterdir() if f"-{self.process.pid}-" in path.name]


def write_deployment(folder: Path) -> Path:
    """A bundle, a store of one user, and a model repository that answers at once."""
    (folder / "bundle").mkdir()
    (folder / "bundle" / "manifest.json").write_text("{}")
    with LmdbHistoryStore(folder / "histories", writable=True) as store:
        store.append(b"user 7", np.ones(1, EVENT))
    for name in ("first", "second"):
        write_model(folder, name, NODE_CONFIG.format(name=name), NODE.format(load_s=0))
    write_model(folder, "recommend", ENSEMBLE_CONFIG)
    return folder


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


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    folder = write_deployment(tmp_path_factory.mktemp("shared"))
    settings = ServingSettings(bundle=folder / "bundle", pool_slots=5)
    with EmbeddedServer(
        model_repository=folder / "models",
        settings=settings,
        endpoints=Endpoints.free(),
        log_path=folder / "server.log",
    ) as server:
        server.start()
        assert server.wait_until_serving(UserCanary(), timeout_s=60)
        yield server


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_printed_request_works_and_a_signal_leaves_nothing(
    launch: Callable[[Endpoints], Launcher], endpoints: Endpoints, number: signal.Signals
) -> None:
    launcher = launch(endpoints)
    printed = launcher.wait_for("curl")
    assert f"unipinrec-client recommend --user 'user 7' --url 127.0.0.1:{endpoints.grpc_port}" in printed
    _, _, url, _, body = shlex.split(next(line for line in printed.splitlines() if "curl" in line))
    assert json.loads(http("POST", url, body)[1])["outputs"][0]["data"] == ["user 7"]

    processes = psutil.Process(launcher.process.pid).children(recursive=True)
    assert len(processes) == 3
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
        infer(f"127.0.0.1:{endpoints.grpc_port}", "someone")
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
    wait_until(lambda: launcher.server() is not None, 30)
    processes = psutil.Process(launcher.process.pid).children(recursive=True)
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
    processes = psutil.Process(killed.process.pid).children(recursive=True)
    killed.stop(signal.SIGKILL)
    wait_until(lambda: not alive(processes), 30)
    assert killed.left_in_shared_memory()
    launch(endpoints).wait_for("Serving after")
    assert killed.left_in_shared_memory() == []


def test_a_killed_server_comes_back_until_that_happens_too_often(
    launch: Callable[[Endpoints], Launcher], endpoints: Endpoints
) -> None:
    """Three requests that Triton 2.51 does not survive, and a kill; then it is back on the same ports."""
    launcher = launch(endpoints)
    launcher.wait_until_served(1)
    first = psutil.Process(launcher.process.pid).children(recursive=True)
    http_address = (endpoints.address, endpoints.http_port)
    killed: list[tuple[int, Callable[[], None]]] = [
        (signal.SIGFPE, lambda: ask_for_classes(http_address)),
        (signal.SIGSEGV, lambda: overflow_a_shape(http_address)),
        (signal.SIGSEGV, lambda: send_in_crumbs(http_address)),
        (signal.SIGKILL, launcher.kill_server),
    ]
    for times, (number, kill) in enumerate(killed, start=2):
        kill()
        launcher.wait_until_served(times)
        assert infer(f"{endpoints.address}:{endpoints.grpc_port}", "someone") == "someone"
        line = launcher.output.splitlines()[-2]
        assert line.startswith(f"server stopped by signal {number}; log: ")
        assert line.endswith("; starting it again in 0 s")
    assert alive(first) == []

    launcher.kill_server()
    assert launcher.process.wait(timeout=30) == 1
    last = launcher.output.splitlines()[-1]
    assert last.startswith("server stopped by signal 9; log: ")
    assert last.endswith("; restarts allowed: 4 in 300 s")
    assert launcher.left_in_shared_memory() == []


def test_signal_while_a_killed_server_comes_back_stops_cleanly(
    launch: Callable[[Endpoints], Launcher], folder: Path, endpoints: Endpoints
) -> None:
    launcher = launch(endpoints)
    launcher.wait_until_served(1)
    write_model(folder, "second", NODE_CONFIG.format(name="second"), NODE.format(load_s=4))
    launcher.kill_server()
    launcher.wait_for("starting it again")
    assert launcher.stop(signal.SIGINT) == 0
    assert launcher.output.endswith("Stopped.\n")
    assert launcher.output.count("Serving after") == 1
    assert launcher.left_in_shared_memory() == []


def test_nodes_run_this_interpreter_with_these_settings(server: EmbeddedServer) -> None:
    assert infer(server.grpc_url, "prefix") == sys.prefix
    assert infer(server.grpc_url, "numpy") == np.__version__
    assert infer(server.grpc_url, "slots") == "5"
    runtime_dir = Path(infer(server.grpc_url, "runtime"))
    assert runtime_dir.parent == SHARED_MEMORY
    assert runtime_dir.stat().st_mode & 0o777 == 0o700


def test_listens_on_loopback_only(server: EmbeddedServer) -> None:
    connections = psutil.Process(server.pid).net_connections("inet")
    listening = {(c.laddr.ip, c.laddr.port) for c in connections if c.status == psutil.CONN_LISTEN}
    # gRPC listens on the IPv6 form of the same IPv4 loopback address.
    assert {ip.removeprefix("::ffff:") for ip, _ in listening} == {"127.0.0.1"}
    assert {port for _, port in listening} == set(server.endpoints.ports.values())


def test_metrics_are_served(server: EmbeddedServer) -> None:
    assert 'nv_inference_request_success{model="recommend"' in http("GET", server.metrics_url)[1]


def test_administration_needs_the_secret(server: EmbeddedServer) -> None:
    with server.client() as client:
        with pytest.raises(triton.InferenceServerException, match="restricted"):
            client.unload_model("first")
        client.get_model_repository_index(headers=server.admin_headers)
    assert http("POST", f"{server.http_url}/v2/repository/models/first/unload")[0] == 403


def test_start_that_is_never_answered_ends_with_the_reason(server: EmbeddedServer) -> None:
    with pytest.raises(ServerError, match=r"server start is over 1 s: .*unknown model: 'absent'"):
        server.wait_until_serving(UserCanary(model="absent"), timeout_s=1)


def test_watchdog_revives_a_dead_node_alone(server: EmbeddedServer) -> None:
    lines: list[str] = []
    before = nodes_of(server)
    with Watchdog(server, [UserCanary()], report=lines.append, interval_s=1):
        os.kill(before["first"], signal.SIGKILL)
        wait_until(lambda: bool(lines), 10)
        assert infer(server.grpc_url, "someone") == "someone"
    after = nodes_of(server)
    assert after["second"] == before["second"]
    assert after["first"] != before["first"]
    assert len(lines) == 1
    assert lines[0].startswith("watchdog: first died; loaded again in ")


def test_watchdog_loads_a_model_whose_load_failed(server: EmbeddedServer) -> None:
    lines: list[str] = []
    with server.client() as client:
        client.unload_model("second", headers=server.admin_headers)
    with Watchdog(server, [UserCanary()], report=lines.append, interval_s=0.5):
        wait_until(lambda: any("answered again" in line for line in lines), 20)
    assert infer(server.grpc_url, "someone") == "someone"


def nodes_of(server: EmbeddedServer) -> dict[str, int]:
    """The process id of each node; its last argument but one names the model's instance."""
    children = psutil.Process(server.pid).children()
    living = [child for child in children if child.status() != psutil.STATUS_ZOMBIE]
    return {child.cmdline()[-2].removesuffix("_0_0"): child.pid for child in living}


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


def infer(url: str, user: str) -> str:
    sent = triton.InferInput("USER_ID", [1, 1], "BYTES")
    sent.set_data_from_numpy(np.array([[user.encode()]], dtype=np.object_))
    with triton.InferenceServerClient(url) as client:
        answer = client.infer("recommend", [sent], client_timeout=5)
    return str(answer.as_numpy("ITEM_IDS")[0, 0].decode())


def http(method: str, url: str, body: str | None = None) -> tuple[int, str]:
    """Status and body of the answer."""
    parts = urlsplit(url)
    connection = HTTPConnection(parts.netloc, timeout=5)
    connection.request(method, parts.path, body)
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that still run; one that has ended may wait for its new parent to take note."""
    return [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def wait_until(condition: Callable[[], bool], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s"
        time.sleep(0.05)


def write_model(folder: Path, name: str, config: str, code: str | None = None) -> None:
    version = folder / "models" / name / "1"
    version.mkdir(parents=True, exist_ok=True)
    (version.parent / "config.pbtxt").write_text(config)
    if code is not None:
        (version / "model.py").write_text(code)
