"""What `unipinrec serve` does: check, start, tell how to call, keep every node alive, stop cleanly."""

import ipaddress
import json
import shlex
import signal
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from types import FrameType, TracebackType
from typing import Self

import numpy as np
import tritonclient.grpc as triton
from rich.console import Console

from ensemble.graph import MODEL_REPOSITORY
from ensemble.server.embedded_server import Canary, EmbeddedServer
from ensemble.server.endpoints import Endpoints, check_endpoints
from ensemble.server.profiles import check_profile
from ensemble.server.restarts import Restarts
from ensemble.server.server_error import ServerError, ServerKilledError
from ensemble.server.watchdog import Watchdog
from ensemble.settings import ServingSettings
from ensemble.stores.history_store import StoreError
from ensemble.stores.stores import open_histories

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
POLL_S = 0.2
UNKNOWN_USER = "42"


@dataclass(kw_only=True, slots=True, frozen=True)
class UserCanary:
    """Real inferences for a user who has no history. Triton's own health stays good when a node dies."""

    model: str = "recommend"
    """Model to ask; an ensemble exercises all of its nodes."""
    input_name: str = "USER_ID"
    """Its BYTES [1, 1] input."""
    timeout_s: float = 5.0
    """Seconds until it counts as failed. Short ones notice a stuck node sooner and fail under load."""

    requests: int = 4
    """Sent at once, so that each instance of a node has to take one: a lone request goes to the same one
    every time."""

    def __call__(self, client: triton.InferenceServerClient) -> None:
        """Sends them. Raises `InferenceServerException` unless all are answered in time."""
        user = triton.InferInput(self.input_name, [1, 1], "BYTES")
        user.set_data_from_numpy(np.array([[b"canary"]], dtype=np.object_))
        errors: Queue[triton.InferenceServerException | None] = Queue()

        def note(**outcome: triton.InferenceServerException | None) -> None:
            errors.put(outcome["error"])

        for _ in range(self.requests):
            client.async_infer(self.model, [user], callback=note, client_timeout=self.timeout_s)
        for error in [errors.get() for _ in range(self.requests)]:
            if error is not None:
                raise error


class StopSignals:
    """Notes Ctrl-C, SIGTERM and a closed terminal, so that a stop runs to its end and in order.

    Signals that were ignored before, as under `nohup`, stay ignored. Only the main thread may use it.
    """

    def __init__(self) -> None:
        # A plain flag: a handler that sets a threading.Event can wait for ever for the lock of the very
        # thread that it interrupted.
        self.received = False
        self._previous = ExitStack()

    def __enter__(self) -> Self:
        for number in STOP_SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._previous.callback(signal.signal, number, signal.signal(number, self._note))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._previous.close()

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        self.received = True


def serve(
    settings: ServingSettings,
    *,
    console: Console,
    endpoints: Endpoints | None = None,
    model_repository: Path = MODEL_REPOSITORY,
    baseline: bool = False,
    profile: str | None = None,
    log_path: Path | None = None,
    canaries: Sequence[Canary] | None = None,
    restarts: Restarts | None = None,
) -> None:
    """Serves `settings.bundle` until Ctrl-C or SIGTERM; call it from the main thread.

    `baseline` serves `recommend_separate` beside `recommend`. The bundle's link is followed once, so that a
    node that is loaded again loads the bundle of the others. A server that has served and is killed by a
    signal, as one request can do to Triton 2.51, is started again, as often as `restarts` grant.

    Raises:
        ServerError: the server cannot start, or it has stopped by itself. One line with a remedy.
        NoGpuError: the profile asks for a GPU, and there is none.
    """
    check_bundle(settings.bundle)
    example = example_user(settings.histories)
    check_profile(profile, model_repository)
    pinned = settings.model_copy(update={"bundle": settings.bundle.resolve()})
    server = EmbeddedServer(
        model_repository=model_repository,
        settings=pinned,
        endpoints=endpoints,
        baseline=baseline,
        profile=profile,
        log_path=log_path,
    )
    check_endpoints(server.endpoints)
    _warn_when_open(server.endpoints, console)
    _warn_without_histories(settings.histories, console)
    with StopSignals() as signals:
        with server:
            canaries = canaries or default_canaries(server)
            _run(server, canaries, restarts or Restarts(), signals, console, example)
            _line(console, "Stopping …")
        _line(console, "Stopped.")


def _run(
    server: EmbeddedServer,
    canaries: Sequence[Canary],
    restarts: Restarts,
    signals: StopSignals,
    console: Console,
    example: str,
) -> None:
    _line(console, f"Loading {server.settings.bundle} (log: {server.log_path})")
    if not _start(server, canaries, signals, console):
        return
    print_requests(console, server, example)
    serving = True
    while not signals.received:
        try:
            if serving:
                _watch(server, canaries, signals, console)
            else:
                serving = _start(server, canaries, signals, console)
        except ServerKilledError as error:
            serving = False
            pause_s = restarts.grant(time.monotonic())
            if pause_s is None:
                raise ServerError(f"{error}; restarts allowed: {restarts}") from None
            _line(console, f"{error}; starting it again in {pause_s:g} s")
            server.stop()
            _sleep(pause_s, signals)


def _start(
    server: EmbeddedServer, canaries: Sequence[Canary], signals: StopSignals, console: Console
) -> bool:
    """Whether the server has come to serve, as it does unless a signal says stop."""
    began = time.monotonic()
    with console.status("Loading the models …"):
        server.start()
        if not all(server.wait_until_serving(c, cancelled=lambda: signals.received) for c in canaries):
            return False
    _line(console, f"Serving after {time.monotonic() - began:.1f} s. Ctrl-C stops it.")
    return True


def _watch(
    server: EmbeddedServer, canaries: Sequence[Canary], signals: StopSignals, console: Console
) -> None:
    with Watchdog(server, canaries, report=lambda line: _line(console, line)):
        while not signals.received:
            server.check_running()
            time.sleep(POLL_S)


def _sleep(seconds: float, signals: StopSignals) -> None:
    until = time.monotonic() + seconds
    while not signals.received and time.monotonic() < until:
        time.sleep(POLL_S)


def print_requests(console: Console, server: EmbeddedServer, user: str) -> None:
    """Prints the three addresses and two requests for `user` that can be pasted into a shell."""
    body = {"inputs": [{"name": "USER_ID", "datatype": "BYTES", "shape": [1, 1], "data": [user]}]}
    for line in (
        f"  gRPC     {server.grpc_url}",
        f"  HTTP     {server.http_url}",
        f"  metrics  {server.metrics_url}",
        "Try:",
        f"  unipinrec-client recommend --user {shlex.quote(user)} --url {server.grpc_url}",
        f"  curl -s {server.http_url}/v2/models/recommend/infer -d {shlex.quote(json.dumps(body))}",
    ):
        _line(console, line)


def default_canaries(server: EmbeddedServer) -> list[Canary]:
    """One canary for each ensemble that the server loads."""
    return [UserCanary(model=name) for name in server.ensembles]


def example_user(histories: Path) -> str:
    """Return the first user of a store, to show in examples; `42` where there is no store or nobody in it.

    Raises:
        ServerError: what is at `histories` is no store.
    """
    try:
        store = open_histories(histories)
    except StoreError as error:
        raise ServerError(str(error)) from error
    if store is None:
        return UNKNOWN_USER
    with closing(store):
        users = store.first_users(1)
    return users[0].decode(errors="replace") if users else UNKNOWN_USER


def check_bundle(bundle: Path) -> None:
    """Raises `ServerError` unless `bundle` is a bundle's folder; the nodes verify its files."""
    if not (bundle / "manifest.json").is_file():
        raise ServerError(
            f"--bundle is {bundle}, which has no manifest.json; make one: `make demo` or `unipinrec export`"
        )


def _warn_when_open(endpoints: Endpoints, console: Console) -> None:
    if not ipaddress.IPv4Address(endpoints.address).is_loopback:
        _line(
            console,
            f"Warning: {endpoints.address} is open to the network, and the server asks nobody who they are.",
        )


def _warn_without_histories(histories: Path, console: Console) -> None:
    if not histories.exists():
        _line(
            console,
            f"Warning: no store of histories at {histories}: users who send none are new ones; "
            "`unipinrec store import` makes it.",
        )


def _line(console: Console, text: str) -> None:
    # Unwrapped and unstyled, so that commands can be copied whole.
    console.print(text, soft_wrap=True, markup=False, highlight=False)
