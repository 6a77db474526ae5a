"""The launcher as a process, with an ensemble `recommend` of two Python nodes that echo the user id.

For the user `deadlock` a node never comes back, for `slow` it computes for longer than it may hang.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil

from ensemble.server.embedded_server import EmbeddedServer
from ensemble.server.endpoints import Endpoints
from ensemble.server.node_process import NodeProcess
from ensemble.settings import ROOT, SHARED_MEMORY
from ensemble.stores.history_store import EVENT
from ensemble.stores.lmdb_store import LmdbHistoryStore
from tests.served.nodes import call
from tests.support.waiting import holds_within

NODE = """
import json, os, sys, threading, time
import numpy as np
import triton_python_backend_utils as pb_utils
from ensemble.nodes.busy import Busy
from ensemble.settings import ServingSettings

class TritonPythonModel:
    def initialize(self, args):
        time.sleep({load_s})
        parameters = json.loads(args["model_config"])["parameters"]
        self.busy = Busy(ServingSettings().with_parameters(parameters).runtime_dir)

    def execute(self, requests):
        with self.busy:
            return self.answers(requests)

    def answers(self, requests):
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", self.answer(r))]) for r in requests]

    def answer(self, request):
        user = pb_utils.get_input_tensor_by_name(request, "IN").as_numpy()
        if user[0, 0] == b"deadlock":
            lock = threading.Lock()
            lock.acquire()
            lock.acquire()
        began = time.monotonic()
        while user[0, 0] == b"slow" and time.monotonic() - began < 8:
            pass
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
LAUNCHER = """
import sys
from pathlib import Path
from rich.console import Console
from ensemble.server.endpoints import Endpoints
from ensemble.server.backoff import Backoff
from ensemble.server.launcher import serve
from ensemble.server.server_error import ServerError
from ensemble.settings import ServingSettings

folder, http_port, grpc_port, metrics_port, health_port = Path(sys.argv[1]), *map(int, sys.argv[2:])
try:
    serve(
        ServingSettings(bundle=folder / "bundle", histories=folder / "histories"),
        console=Console(),
        endpoints=Endpoints(
            http_port=http_port, grpc_port=grpc_port, metrics_port=metrics_port, health_port=health_port
        ),
        model_repository=folder / "models",
        log_path=folder / "server.log",
        backoff=Backoff(first_s=0.1, longest_s=0.1),
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

    def processes(self) -> list[psutil.Process]:
        """The server, its nodes and the reaper."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def server(self) -> psutil.Process | None:
        return next((process for process in self.processes() if process.name() == "tritonserver"), None)

    def node(self, name: str) -> psutil.Process:
        """A process of a node."""
        found = [node for process in self.processes() if (node := NodeProcess.of(process))]
        return next(node.process for node in found if node.model == name)

    def wait_for(self, text: str, times: int = 1) -> str:
        """Waits until it has printed a text that often; returns all that it has printed."""
        holds_within(60, lambda: self.output.count(text) >= times or self.process.poll() is not None)
        assert self.output.count(text) == times, self.output
        return self.output

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


def write_model(folder: Path, name: str, config: str, code: str | None = None) -> None:
    version = folder / "models" / name / "1"
    version.mkdir(parents=True, exist_ok=True)
    (version.parent / "config.pbtxt").write_text(config)
    if code is not None:
        (version / "model.py").write_text(code)


def infer(server: EmbeddedServer | Endpoints, user: str) -> str:
    """What the ensemble answers for a user."""
    users = np.array([[user.encode()]], dtype=np.object_)
    answer: bytes = call(server, "recommend", {"USER_ID": users})["ITEM_IDS"][0, 0]
    return answer.decode()


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that still run; one that has ended may wait for its new parent to take note."""
    return [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
