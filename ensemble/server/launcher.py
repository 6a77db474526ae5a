"""What `unipinrec serve` does: check, start, tell how to call, keep every node alive, stop cleanly."""

import ipaddress
import json
import shlex
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import Queue

import numpy as np
import tritonclient.grpc as triton
from rich.console import Console

from ensemble.arrays import PADDING
from ensemble.bundle_check.bounded import check_bundle_bounded
from ensemble.gpu_presence import require_gpu
from ensemble.graph import MODEL_REPOSITORY, call_server, read_config
from ensemble.nodes.contract import CANARY, CHECK, COMMAND
from ensemble.server.backoff import Backoff
from ensemble.server.control import Control, listening
from ensemble.server.embedded_server import Canary, EmbeddedServer
from ensemble.server.endpoints import Endpoints
from ensemble.server.health import SERVER, Health, told_at
from ensemble.server.rollout import Rollout
from ensemble.server.runtime_folder import await_abandoned
from ensemble.server.server_error import BundleRefusedError, ServerError, ServerKilledError
from ensemble.server.watchdog import Watchdog
from ensemble.settings import ServingSettings
from ensemble.stores.history_store import StoreError, StoreUnavailableError
from ensemble.stores.stores import has_histories, open_histories
from unipinrec.bundle import BundleError

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
POLL_S = 0.2
UNKNOWN_USER = "42"
FAILED_STARTS = 5
"""Starts in turn that may fail by themselves, once a server has served."""


@dataclass(kw_only=True, slots=True, frozen=True)
class UserCanary:
    """Real inferences for a user who has no history. Triton's own health stays good when a node dies."""

    model: str = "recommend"
    """Model to ask; an ensemble exercises all of its nodes."""
    timeout_s: float = 5.0
    """Seconds until it counts as failed. Short ones notice a stuck node sooner and fail under load."""
    requests: int = 4
    """Sent at once, so that each instance of a node has to take one: a lone request goes to the same one
    every time."""

    def __call__(self, client: triton.InferenceServerClient) -> None:
        """Send them. Raises `InferenceServerException` unless all are answered in time."""
        user = triton.InferInput("USER_ID", [1, 1], "BYTES")
        user.set_data_from_numpy(np.array([[CANARY.encode()]], dtype=np.object_))
        errors: Queue[triton.InferenceServerException | None] = Queue()
        for _ in range(self.requests):
            client.async_infer(
                self.model,
                [user],
                lambda error, **_: errors.put(error),
                request_id=CANARY,
                timeout=round(1e6 * self.timeout_s),
                client_timeout=self.timeout_s,
            )
        for error in [errors.get() for _ in range(self.requests)]:
            if error is not None:
                raise error


@dataclass(kw_only=True, slots=True, frozen=True)
class AppendCanary:
    """An append of no events, which takes the writers' turn and changes nothing."""

    model: str = "append_events"
    timeout_s: float = 5.0
    """Seconds until it counts as failed; while an import writes, every append waits."""

    def __call__(self, client: triton.InferenceServerClient) -> None:
        """Ask it. Raises `InferenceServerException` unless it is answered in time."""
        nothing = {name: np.zeros((1, 1), np.int64) for name in ("ACTIONS", "TIMESTAMPS")}
        user = np.array([[b"canary"]], np.object_)
        items = np.full((1, 1), PADDING)
        call_server(client, self.timeout_s)(self.model, {"USER_ID": user, "ITEM_IDS": items, **nothing})


@dataclass(kw_only=True, slots=True, frozen=True)
class ItemCanary:
    """A check of the node that updates items, which takes its turn and changes nothing."""

    model: str = "update_items"
    timeout_s: float = 5.0
    """Seconds until it counts as failed."""

    def __call__(self, client: triton.InferenceServerClient) -> None:
        """Ask it. Raises `InferenceServerException` unless it is answered in time."""
        operation = np.array([[b"check"]], np.object_)
        inputs = {"ITEM_ID": np.zeros((1, 1), np.int64), "OPERATION": operation}
        call_server(client, self.timeout_s)(self.model, inputs)


@dataclass(kw_only=True, slots=True, frozen=True)
class CommandCanary:
    """A question to a node that is no step of an ensemble, and that tells of itself only when it works."""

    model: str
    timeout_s: float = 2.0
    """Seconds until it counts as failed. No request waits for such a node, so that it may be judged soon."""

    def __call__(self, client: triton.InferenceServerClient) -> None:
        """Ask it. Raises `InferenceServerException` unless it is answered in time."""
        command = triton.InferInput(COMMAND, [1], "BYTES")
        command.set_data_from_numpy(np.array([CHECK], dtype=np.object_))
        client.infer(self.model, [command], client_timeout=self.timeout_s)


@dataclass(slots=True)
class Stop:
    """Whether somebody wants the launcher to stop."""

    # A plain flag: a handler that sets a threading.Event can wait for ever for the lock of the very
    # thread that it interrupted.
    asked: bool = False


def serve(
    settings: ServingSettings,
    *,
    console: Console,
    endpoints: Endpoints | None = None,
    model_repository: Path = MODEL_REPOSITORY,
    baseline: bool = False,
    profile: str | None = None,
    log_path: Path | None = None,
    backoff: Backoff | None = None,
) -> None:
    """Serve `settings.bundle` until Ctrl-C or SIGTERM; call it from the main thread.

    `baseline` serves `recommend_separate` beside `recommend`. The bundle's link is followed once, so that a
    node that is loaded again loads the bundle of the others. A server that has served and ends, as by a
    signal after a request that Triton 2.51 does not survive, is started again, after the pauses of `backoff`.
    The health port tells what serves and what does not, from the first moment on.

    Raises `ServerError`, one line with a remedy, if the server cannot start or has stopped by itself, its
    subclass `BundleRefusedError` if the bundle is not to be served, and `NoGpuError` if the profile asks for
    a GPU and there is none.
    """
    # Unwrapped and unstyled, so that commands can be copied whole.
    say = partial(console.print, soft_wrap=True, markup=False, highlight=False)
    require_bundle(settings.bundle)
    example = example_user(settings, say)
    check_profile(profile, model_repository, settings)
    endpoints = endpoints or Endpoints()
    await_abandoned(settings.runtime_dir)
    endpoints.check()
    with console.status("Checking the bundle …"):
        check_bundle(settings.bundle)
    if not ipaddress.IPv4Address(endpoints.address).is_loopback:
        say(f"Warning: {endpoints.address} is open to the network, and the server asks nobody who they are.")
        if settings.append_events:
            say("Warning: whoever reaches it can add events to any user's history.")
        if settings.update_items:
            say("Warning: whoever reaches it can add and remove items.")
    if not has_histories(settings) and not settings.append_events:
        say(
            f"Warning: no store of histories at {settings.histories}: users who send none are new ones; "
            "`unipinrec store import` makes it."
        )
    server = EmbeddedServer(
        model_repository=model_repository,
        settings=settings.model_copy(update={"bundle": settings.bundle.resolve()}),
        endpoints=endpoints,
        baseline=baseline,
        profile=profile,
        log_path=log_path,
    )
    health = Health()
    health.begin(SERVER, "starts")
    with stop_on_signals() as stop:
        with told_at(health, endpoints), server:
            say(f"Loading {server.settings.bundle} (log: {server.log_path})")
            for ensemble in server.not_served:
                say(f"Without {ensemble}: the bundle holds no model for it; `unipinrec export` adds one.")
            rollout = Rollout(server, check_bundle, settings.bundle if settings.bundle.is_symlink() else None)
            control = Control(rollout, say)
            _keep_serving(server, health, backoff or Backoff(), stop, console, say, example, control)
            say("Stopping …")
        say("Stopped.")


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Note Ctrl-C, SIGTERM and a closed terminal, so that a stop runs to its end and in order. Signals that
    were ignored before, as under `nohup`, stay ignored. Only the main thread may use it."""
    stop = Stop()

    def note(*_: object) -> None:
        stop.asked = True

    with ExitStack() as previous:
        for number in STOP_SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                previous.callback(signal.signal, number, signal.signal(number, note))
        yield stop


def _keep_serving(
    server: EmbeddedServer,
    health: Health,
    backoff: Backoff,
    stop: Stop,
    console: Console,
    say: Callable[[str], None],
    example: str,
    control: Control,
) -> None:
    has_served, failed_starts = False, 0
    while not stop.asked:
        serves = False
        try:
            began = time.monotonic()
            with console.status("Loading the models …"):
                server.start()
                canaries = canaries_of(server)
                if not all(server.wait_until_serving(c, cancelled=lambda: stop.asked) for c in canaries):
                    return
            with (
                watchdog_of(server, say, health),
                listening(server.settings.runtime_dir, control),
            ):
                say(f"Serving after {time.monotonic() - began:.1f} s. Ctrl-C stops it.")
                if not has_served:
                    say(_requests(server.endpoints, example))
                else:
                    health.started(SERVER, well=True)
                has_served, serves, failed_starts = True, True, 0
                backoff.serves(time.monotonic())
                health.end(SERVER)
                while not stop.asked:
                    server.check_running()
                    time.sleep(POLL_S)
        except ServerError as error:
            # Triton 2.51 rarely ends itself while it starts: boost's lock_exception.
            killed = isinstance(error, ServerKilledError)
            failed_starts += not serves and not (killed and has_served)
            if failed_starts == FAILED_STARTS or not (killed or has_served):
                raise
            if not serves:
                health.started(SERVER, well=False)
            health.clear()
            health.begin(SERVER, "ended", str(error))
            pause_s = backoff.pause_s(time.monotonic())
            say(f"{error}; starting it again in {pause_s:g} s")
            server.stop()
            until = time.monotonic() + pause_s
            while not stop.asked and time.monotonic() < until:
                time.sleep(POLL_S)


def _requests(endpoints: Endpoints, user: str) -> str:
    """The three addresses, and two requests for `user` that can be pasted into a shell."""
    body = {"inputs": [{"name": "USER_ID", "datatype": "BYTES", "shape": [1, 1], "data": [user]}]}
    return (
        f"  gRPC     {endpoints.grpc_url}\n"
        f"  HTTP     {endpoints.http_url}\n"
        f"  metrics  {endpoints.metrics_url}\n"
        f"  health   {endpoints.health_url}/readyz\n"
        "Try:\n"
        f"  unipinrec-client recommend --user {shlex.quote(user)} --url {endpoints.grpc_url}\n"
        f"  curl -s {endpoints.http_url}/v2/models/recommend/infer -d {shlex.quote(json.dumps(body))}"
    )


def canaries_of(server: EmbeddedServer, timeout_s: float = 5.0) -> list[Canary]:
    """Return a canary for each ensemble that the server loads, and one for appends and items each if it takes
    them: with all of them answered, it serves."""
    writers = (AppendCanary(timeout_s=timeout_s), ItemCanary(timeout_s=timeout_s))
    return [
        *(UserCanary(model=name, timeout_s=timeout_s) for name in server.ensembles),
        *(canary for canary in writers if canary.model in server.models),
    ]


class CurrentCanaries:
    """The canaries of what a server holds whenever they are gone through: a rollout changes it."""

    def __init__(self, server: EmbeddedServer) -> None:
        self._server = server

    def __iter__(self) -> Iterator[Canary]:
        yield from canaries_of(self._server)


class CurrentCommands(Mapping[str, Canary]):
    """The canaries of models that answer commands and that a server holds, by model."""

    def __init__(self, server: EmbeddedServer) -> None:
        self._server = server

    def __getitem__(self, model: str) -> Canary:
        return CommandCanary(model=model)

    def __iter__(self) -> Iterator[str]:
        return iter(self._server.beside)

    def __len__(self) -> int:
        return len(self._server.beside)


def watchdog_of(
    server: EmbeddedServer, report: Callable[[str], None], health: Health | None = None
) -> Watchdog:
    """Return the watchdog of all nodes of a server, those that stand by or beside the ensembles too."""
    beside = CurrentCommands(server)
    return Watchdog(server, CurrentCanaries(server), beside=beside, report=report, health=health)


def example_user(settings: ServingSettings, say: Callable[[str], None]) -> str:
    """Return the first user of the store, to show in examples; `42` where there is no store or nobody in it,
    or its server is away, which `say` gets told. Raises `ServerError` if what is there is no store."""
    try:
        store = open_histories(settings)
        if store is None:
            return UNKNOWN_USER
        with closing(store):
            users = store.first_users(1)
    except StoreUnavailableError as error:
        say(f"Warning: {error}; users who send no history get an error until it answers.")
        return UNKNOWN_USER
    except StoreError as error:
        raise ServerError(str(error)) from error
    return users[0].decode(errors="replace") if users else UNKNOWN_USER


def check_bundle(bundle: Path) -> None:
    """Check all that a bundle holds before anything loads it, in a process of its own for seconds. Raises
    `BundleRefusedError`, one line that names the file."""
    require_bundle(bundle)
    try:
        check_bundle_bounded(bundle)
    except BundleError as error:
        raise BundleRefusedError(str(error)) from error


def require_bundle(bundle: Path) -> None:
    """Raises `BundleRefusedError` unless `bundle` is a bundle's folder; the nodes verify its files."""
    if not (bundle / "manifest.json").is_file():
        raise BundleRefusedError(
            f"--bundle is {bundle}, which has no manifest.json; make one: `make demo` or `unipinrec export`"
        )


def check_profile(
    profile: str | None, model_repository: Path, settings: ServingSettings | None = None
) -> None:
    """Refuse a profile, `configs/<profile>.pbtxt` of models, that cannot be served here. Raises `ServerError`
    if no model has it, where Triton itself would silently use the default, or it asks for a GPU, whose tables
    hold no items but the bundle's, where others have been added, and `NoGpuError` if there is none."""
    if profile is None:
        return
    profiles = sorted({path.stem for path in model_repository.glob("*/configs/*.pbtxt")})
    if profile not in profiles:
        raise ServerError(
            f"--profile is {profile}; allowed: {', '.join(profiles) or 'none in this repository'}"
        )
    configs = [read_config(path) for path in model_repository.glob(f"*/configs/{profile}.pbtxt")]
    if any(group.kind == group.KIND_GPU for config in configs for group in config.instance_group):
        require_gpu(f"--profile is {profile}", ", or no --profile")
        if settings is not None and settings.has_catalogue:
            raise ServerError(
                f"--profile is {profile} and {settings.catalogue} has items that a GPU's tables have no room "
                "for; allowed: no --profile, or another UNIPINREC_CATALOGUE without --update-items"
            )
