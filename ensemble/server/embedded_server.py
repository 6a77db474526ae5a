"""A `tritonserver` run as a child process, without Docker or inside a container."""

import ctypes
import os
import re
import secrets
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Self

import psutil
import tritonclient.grpc as triton

from ensemble.server.endpoints import Endpoints
from ensemble.server.installation import Installation
from ensemble.server.node_process import NodeProcess
from ensemble.server.node_set import FIRST, NodeSet, standby_name
from ensemble.server.reaper import Reaper
from ensemble.server.runtime_folder import claim_folder, remove_abandoned, remove_folder
from ensemble.server.selection import Selection
from ensemble.server.served_repository import ServedRepository
from ensemble.server.server_error import ServerError, ServerKilledError
from ensemble.server.triton_call import ADMIN_KEY, UNLOAD_TIMEOUT_S, environment, triton_flags
from ensemble.settings import ROOT, SHARED_MEMORY, ServingSettings
from ensemble.stores.history_store import StoreError
from ensemble.stores.stores import make_catalogue, make_histories
from unipinrec.bundle import BundleError, read_manifest

POLL_S = 0.1
PR_SET_PDEATHSIG = 1
OUTAGE = "outage"
"""Name of a model that holds nothing and fails to load, so that the server is not ready (`readiness.py`)."""
# Said on every machine without a GPU, and of that model.
HARMLESS = ("CudaDriverHelper", "unable to create stream", "initialize NVML", f"'{OUTAGE}'")
# Triton logs a traceback as one quoted line with escaped line ends: its first line says what failed.
LOGGED_ERROR = re.compile(r'^E\d{4} \S+ \d+ \S+ "?(?P<message>.+?)(?:\\n.*)?"?$')
LOGGED_OTHER = re.compile(r"^[IW]\d{4} |^[+|]|^\s*$")

NO_PROXY = ("grpc.enable_http_proxy", 0)
"""The server is on this machine, which no proxy of the environment leads to."""
CHANNEL_ARGUMENTS = (
    # gRPC's own pauses between attempts to connect grow to minutes.
    *((f"grpc.{bound}_reconnect_backoff_ms", 100) for bound in ("initial", "min", "max")),
    NO_PROXY,
)

_libc = ctypes.CDLL(None)

Canary = Callable[[triton.InferenceServerClient], None]
"""Sends an inference and raises `InferenceServerException` unless it is answered."""


class EmbeddedServer:
    """One `tritonserver` process with its log, its secrets and its shared memory.

    Used as a context manager it stops the server and removes what it left, whatever happened in between.
    Start it from a thread that lives as long as the server should: Linux ends the server with that thread,
    by a SIGTERM. What does not end by it, as a stopped node, `reaper.py` kills, and removes folders in shared
    memory; a start removes those that no living process holds, too.

    The admin secret is in the server's command line, where other users of the machine can read it.
    """

    def __init__(
        self,
        *,
        model_repository: Path,
        settings: ServingSettings,
        endpoints: Endpoints | None = None,
        baseline: bool = False,
        profile: str | None = None,
        log_path: Path | None = None,
    ) -> None:
        """Read the repository; `start` starts the server.

        The nodes read `settings` from their environment. `endpoints` are by default Triton's on loopback.
        `baseline` loads `recommend_separate` and the nodes that only it has, too; `profile` takes
        `configs/<profile>.pbtxt` of each model that has it. `log_path` is overwritten.
        """
        self.endpoints = endpoints or Endpoints()
        self.grpc_url = self.endpoints.grpc_url
        self.http_url = self.endpoints.http_url
        self.metrics_url = self.endpoints.metrics_url
        self.settings = settings.sealing()
        self.log_path = log_path or ROOT / "build" / "logs" / f"serve-{self.endpoints.grpc_port}.log"
        self._model_repository = self._source = model_repository
        self._baseline = baseline
        self._profile = profile
        self.serving = self.node_set(FIRST, settings.bundle)
        """The nodes that callers' requests reach."""
        self.standby: NodeSet | None = None
        """The nodes of another bundle that are loaded beside them."""
        self.changing = threading.RLock()
        """Held by whoever changes what is loaded, the watchdog too."""
        self._secret = secrets.token_hex(16)
        self.admin_headers = {f"triton-grpc-protocol-{ADMIN_KEY}": self._secret}
        """gRPC metadata that opens the restricted protocols, such as loading models."""
        self._runtime_base = settings.runtime_dir
        self.repository: ServedRepository
        self._starts = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._lock: int | None = None
        self._reaper: Reaper | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """Process id of the running server. Raises `ServerError` when there is none."""
        if self._process is None:
            raise ServerError("server is not started; call start() first")
        return self._process.pid

    @property
    def ensembles(self) -> list[str]:
        """The ensembles that callers name, each of which is asked by canaries and drained at a stop."""
        return list(self.serving.selection.ensembles)

    @property
    def not_served(self) -> list[str]:
        """The ensembles that a bundle with one more model would have."""
        return list(self.serving.selection.not_served)

    @property
    def beside(self) -> list[str]:
        """The models that no ensemble has as a step, and which a command asks how they are."""
        return list(self.serving.selection.commanded)

    @property
    def standby_ensembles(self) -> list[str]:
        """The ensembles over the nodes that stand by."""
        return [standby_name(name) for name in self.standby.selection.ensembles] if self.standby else []

    @property
    def models(self) -> list[str]:
        """All that is loaded, nodes that stand by too."""
        standing_by = self.standby.nodes if self.standby else []
        named = (*self.serving.nodes, *self.serving.selection.alone, *self.ensembles)
        return sorted([*named, *standing_by, *self.standby_ensembles])

    def node_set(self, number: int, bundle: Path) -> NodeSet:
        """Return the set of nodes that would serve a bundle."""
        manifest = None
        with suppress(BundleError):
            manifest = read_manifest(bundle)
        held = manifest.models.keys() if manifest else None
        selection = Selection.of(self._source, self.settings, held, baseline=self._baseline)
        base = self.settings.runtime_dir
        return NodeSet(number=number, bundle=bundle, manifest=manifest, selection=selection, base=base)

    def start(self) -> None:
        """Start the process, again after `stop` too; it serves `settings.bundle` once `wait_until_serving`
        says so. A store that callers may append to is made before. Raises `ServerError` if this machine
        misses a requirement, or the store cannot be made."""
        triton_server = Installation.find(self.settings.triton_home)
        if self.settings.append_events:
            _make_store(partial(make_histories, self.settings))
        if self.settings.update_items:
            _make_store(partial(make_catalogue, self.settings.catalogue))
        remove_abandoned(self._runtime_base)
        runtime_dir, self._lock = claim_folder(self._runtime_base)
        self.settings = self.settings.model_copy(update={"runtime_dir": runtime_dir})
        self._reaper = Reaper(runtime_dir, SHARED_MEMORY)
        with self.changing:
            models = runtime_dir / "models"
            self.repository = ServedRepository(models, self._model_repository, self._profile)
            self._source = self.repository.source
            self.serving, self.standby = self.node_set(FIRST, self.settings.bundle), None
            self.repository.write_all(self.serving)
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        # What ended one process stays in the log of the next.
        with self.log_path.open("ab" if self._starts else "wb") as log:
            self._starts += 1
            flags = triton_flags(
                self.settings, self.endpoints, self.repository.folder, self.models, self._secret
            )
            self._process = subprocess.Popen(
                [triton_server.binary, f"--backend-directory={triton_server.backends}", *flags],
                env=environment(self.settings, [triton_server.libpython.parent, triton_server.libraries]),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # A terminal's Ctrl-C must reach the launcher alone, which then stops the server in order.
                start_new_session=True,
                preexec_fn=_end_with_parent(os.getpid()),
                # The server and its nodes hold the lock too, so their memory outlives a killed launcher.
                pass_fds=(self._lock,),
            )
        self._reaper.watch(self.pid)

    def wait_until_serving(
        self, canary: Canary, timeout_s: float | None = None, cancelled: Callable[[], bool] = lambda: False
    ) -> bool:
        """Return True as soon as `canary` is answered and all ports are open, which Triton opens one after
        another; False as soon as `cancelled` says so. Raises `ServerError` if the process ended, or
        `timeout_s` seconds went by without an answer, by default the settings' `load_timeout_s`."""
        timeout_s = self.settings.load_timeout_s if timeout_s is None else timeout_s
        deadline = time.monotonic() + timeout_s
        with self.client() as client:
            while not cancelled():
                self.check_running()
                error = failure_of(canary, client) or self.endpoints.closed_port()
                if error is None:
                    return True
                if time.monotonic() > deadline:
                    raise ServerError(f"server start is over {timeout_s:g} s: {error}; log: {self.log_path}")
                time.sleep(POLL_S)
        return False

    def stands_by(self, model: str) -> bool:
        """Return whether a model is one that no caller's request reaches."""
        return self.standby is not None and model in (*self.standby.nodes, *self.standby_ensembles)

    def bundle_of(self, model: str) -> Path | None:
        """Return the bundle of a model; None for one that is not to be loaded."""
        if self.standby is not None and self.stands_by(model):
            return self.standby.bundle
        return self.serving.bundle if model in self.models else None

    def runtime_dir_of(self, model: str) -> Path:
        """Return the folder in which the nodes of a model keep what they share."""
        stands_by = self.standby is not None and model in self.standby.nodes
        nodes = self.standby if self.standby is not None and stands_by else self.serving
        return nodes.runtime_dir

    def children(self) -> list[psutil.Process]:
        """Return all that the server has started, also what has died since."""
        found: list[psutil.Process] = psutil.Process(self.pid).children()
        return found

    def processes(self) -> list[NodeProcess]:
        """Return the processes of all nodes; those that have died are not among them."""
        found = [NodeProcess.of(child) for child in self.children()]
        return [node for node in found if node is not None]

    def node_processes(self, model: str) -> list[int]:
        """Return the process ids of a model's instances; those that have died are not among them."""
        return [node.pid for node in self.processes() if node.model == model]

    def kill(self) -> None:
        """End the server at once, as one that hangs; its launcher finds it killed. Raises `ServerError` when
        there is none."""
        os.kill(self.pid, signal.SIGKILL)

    def check_running(self) -> None:
        """Raises `ServerError` with the last errors of the log when the process has ended.
        `ServerKilledError`, its subclass, is raised when a signal ended it."""
        ending = _ending(self.pid)
        if ending is None:
            return
        if ending.si_code != os.CLD_EXITED:
            raise ServerKilledError(f"server stopped by signal {ending.si_status}; log: {self.log_path}")
        said = [f"server stopped by exit code {ending.si_status}", *self._last_errors()]
        raise ServerError("; ".join([*said, f"log: {self.log_path}"]))

    def stop(self) -> None:
        """End the server once requests in flight are answered, and remove what it left in shared memory.
        Takes at most the settings' `exit_timeout_s` for the requests and 5 s more."""
        if self._process is not None:
            if not _ending(self.pid):
                # A server that does not answer, as one that loads, has nothing in flight or is beyond help.
                with suppress(triton.InferenceServerException):
                    self._drain(float(self.settings.exit_timeout_s))
            self._end(self._process)
            self._process = None
        if self._lock is not None:
            remove_folder(self.settings.runtime_dir)
            os.close(self._lock)
            self._lock = None
        if self._reaper is not None:
            self._reaper.dismiss()
            self._reaper = None

    def client(self) -> triton.InferenceServerClient:
        """Return a gRPC client of this server; as a context manager it is closed at the end."""
        return triton.InferenceServerClient(self.grpc_url, channel_args=CHANNEL_ARGUMENTS)

    def _drain(self, timeout_s: float) -> None:
        """Unload the ensembles, which refuses new requests, and wait until those under way are answered. At
        its own stop Triton refuses the further steps of ensembles under way, so their requests would fail."""
        asked = {"headers": self.admin_headers, "client_timeout": timeout_s}
        deadline = time.monotonic() + timeout_s
        with self.client() as client:
            for ensemble in self.ensembles:
                client.unload_model(ensemble, **asked)
            while time.monotonic() < deadline:
                index = client.get_model_repository_index(**asked).models
                if not any(m.name in self.ensembles and m.state in ("READY", "UNLOADING") for m in index):
                    return
                time.sleep(POLL_S / 2)

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGTERM)
        # Triton counts its own timeout from when it has noticed the signal.
        deadline = time.monotonic() + UNLOAD_TIMEOUT_S + 2.0
        while not _ending(process.pid) and time.monotonic() < deadline:
            time.sleep(POLL_S)
        # Until it is waited for, the server's id names its own process group and no other.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def _last_errors(self, most: int = 2) -> list[str]:
        logged = self.log_path.read_text(errors="replace").splitlines()
        lines = [line for line in logged if not any(known in line for known in HARMLESS)]
        errors = [match["message"] for line in lines if (match := LOGGED_ERROR.match(line))]
        # What fails before Triton logs anything, as a missing library, is said in a bare line.
        return (errors or [line for line in lines if not LOGGED_OTHER.match(line)])[-most:]


def failure_of(canary: Canary, client: triton.InferenceServerClient) -> str | None:
    """Return the error message of a canary, or None when it was answered."""
    try:
        canary(client)
    except triton.InferenceServerException as error:
        return str(error)
    return None


def _make_store(make: Callable[[], None]) -> None:
    try:
        make()
    except (StoreError, OSError) as error:
        raise ServerError(str(error)) from error


def _end_with_parent(parent: int) -> Callable[[], None]:
    def ask_for_signal() -> None:
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)

    return ask_for_signal


def _ending(pid: int) -> os.waitid_result | None:
    """How the child ended, or None while it runs."""
    # WNOWAIT leaves the ended process to be waited for, so that its id is not given to another meanwhile.
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
