"""What faults cost: processes of `unipinrec serve` are killed and stopped under load, and answers compared.

Shapes: K results.
"""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import numpy as np
import psutil
from rich.table import Table

from benchmarks.random_bundle import RandomBundle, make_random_bundle
from ensemble.graph import MODEL_REPOSITORY, ensembles_in
from ensemble.server.endpoints import Endpoints
from ensemble.server.node_process import NodeProcess
from ensemble.server.server_error import ServerError
from ensemble.settings import ROOT, SHARED_MEMORY
from experiments.report import Machine
from loadtest.answers import Answer, RecordedAnswer
from loadtest.generator import WindowPlan
from loadtest.generators import Generated, Generators
from loadtest.histories import DrawnUsers
from loadtest.outcomes import OK, Outcome
from loadtest.plan import LoadPlan
from loadtest.render import table
from loadtest.schedule import Arrivals
from loadtest.traffic import TrafficMix
from unipinrec.config import Config

ITEMS, USERS, SEED = 2_000, 200, 5
NODES = tuple(step.node for step in ensembles_in(MODEL_REPOSITORY)["recommend"].steps)
SERVER = "tritonserver"
BEFORE_S = 2.0
"""Of load before a fault."""
READY_S = 120.0
"""For which a launcher may take until it is ready, and what was left until it is gone."""
POLL_S = 0.05
TOLERANCE = 1e-3
"""Of a score or probability: batches and prefixes round otherwise, another user's are far off."""
STRANGERS = 0.1
"""Share of an answer's items that may be others, whose similarities tie."""


class Trial(Config):
    """One fault. Seconds count from it; what did not happen in the window is none."""

    right_s: float | None
    """Until the last request had failed and one that came later was answered."""
    ready_s: float | None
    """Until the launcher said that everything serves."""
    clean_s: float | None = None
    """Until nothing of a killed launcher was left, no process and no shared memory."""
    failed_in_flight: int
    """Requests that were under way when it happened, and failed."""
    failed_later: int
    """Requests that came later and failed."""
    answered: int
    """Requests that were answered, before and after it."""
    compared: int
    """Answers that were compared with those of the same requests before any fault."""
    wrong: int


class FaultsReport(Config):
    """All trials by fault."""

    machine: Machine
    settings: dict[str, float | int | str]
    trials: dict[str, tuple[Trial, ...]]

    def table(self) -> Table:
        """Return a row for each fault, with the worst of its trials."""
        return table("Faults under load: the worst of all trials", map(self._row, self.trials))

    def _row(self, fault: str) -> dict[str, str]:
        trials = self.trials[fault]
        longest = {name: _longest([getattr(t, name) for t in trials]) for name in ("right_s", "ready_s")}
        cleans = [trial.clean_s for trial in trials] if fault.startswith("launcher") else []
        return {
            "fault": fault,
            "trials": str(len(trials)),
            "right again after, s": longest["right_s"],
            "ready after, s": longest["ready_s"],
            "nothing left after, s": _longest(cleans),
            "failed in flight": str(max(trial.failed_in_flight for trial in trials)),
            "failed later": str(max(trial.failed_later for trial in trials)),
            "compared": str(sum(trial.compared for trial in trials)),
            "wrong": str(sum(trial.wrong for trial in trials)),
        }


@dataclass(frozen=True, kw_only=True)
class FaultsPlan:
    """Sizes and durations."""

    out: Path
    """Folder of bundles, logs and the report."""
    sizes: str = "demo"
    rate: float = 40.0
    """Requests a second."""
    repeats: int = 20
    node_window_s: float = 12.0
    """Of load after a node's fault."""
    server_window_s: float = 30.0
    """Of load after a fault of the server or its launcher."""
    only: tuple[str, ...] = ()
    """Faults, by name; all where none is given."""


class Served:
    """`unipinrec serve` as a process, which can be killed and started anew at the same ports."""

    def __init__(self, bundle: Path, out: Path) -> None:
        self.endpoints = Endpoints.free()
        self._health = HTTPConnection(self.endpoints.host, self.endpoints.health_port, timeout=2)
        self._out = out
        self._command = [sys.executable, "-m", "commands.serve", f"--bundle={bundle}"]
        self._command += [f"--histories={out / 'no-histories'}", f"--log={out / 'faults-server.log'}"]
        self._command += [f"{option}={port}" for option, port in self.endpoints.ports.items()]
        self.launcher = self._launch()

    def _launch(self) -> "subprocess.Popen[bytes]":
        with (self._out / "faults-launcher.log").open("ab") as log:
            return subprocess.Popen(self._command, cwd=ROOT, stdout=log, stderr=log)

    def processes(self) -> list[psutil.Process]:
        """Return the server, its nodes and what else belongs to the launcher."""
        found: list[psutil.Process] = psutil.Process(self.launcher.pid).children(recursive=True)
        return found

    def find(self, name: str) -> psutil.Process:
        """Return the first process of a node, or the server's. Raises `ServerError` if there is none."""
        for process in self.processes():
            node = NodeProcess.of(process)
            with suppress(psutil.NoSuchProcess):
                if (node is not None and node.model == name) or process.name() == name:
                    return process
        raise ServerError(f"no process of {name} is there; log: {self._out / 'faults-launcher.log'}")

    def relaunch(self) -> Callable[[], bool]:
        """Kill the launcher and start another at once; return what says whether the first left nothing."""
        left, number = self.processes(), self.launcher.pid
        self.launcher.kill()
        self.launcher.wait()
        self.launcher = self._launch()
        return lambda: (
            not any(_runs(process) for process in left)
            and not any(f"-{number}-" in path.name for path in SHARED_MEMORY.iterdir())
        )

    def is_ready(self) -> bool:
        """Return what the launcher says."""
        try:
            self._health.request("GET", "/readyz")
            answer = self._health.getresponse()
            answer.read()
        except (OSError, HTTPException):
            return False
        finally:
            self._health.close()
        return answer.status == 200

    def await_ready(self) -> None:
        """Raises `ServerError` if it takes too long."""
        log = self._out / "faults-launcher.log"
        if _seconds_until(lambda: self.is_ready() or self.launcher.poll() is not None, READY_S) is None:
            raise ServerError(f"the server is not ready after {READY_S:g} s; log: {log}")
        if self.launcher.poll() is not None:
            raise ServerError(f"the launcher ended: {log.read_text().splitlines()[-1]}; log: {log}")

    def stop(self) -> None:
        """End it in order."""
        self.launcher.terminate()
        try:
            self.launcher.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.launcher.kill()


@contextmanager
def served(bundle: Path, out: Path) -> Iterator[Served]:
    """Serve a bundle while the block runs."""
    running = Served(bundle, out)
    try:
        running.await_ready()
        yield running
    finally:
        running.stop()


Inject = Callable[[Served], Callable[[], bool]]
"""Does something to a server, and returns what says whether nothing is left of what it killed."""


def faults() -> dict[str, Inject]:
    """Return all faults by name."""

    def signalled(name: str, number: signal.Signals) -> Inject:
        def inject(running: Served) -> Callable[[], bool]:
            running.find(name).send_signal(number)
            return lambda: True

        return inject

    def launcher_with_stopped_node(running: Served) -> Callable[[], bool]:
        running.find("ranking").send_signal(signal.SIGSTOP)
        return running.relaunch()

    return {
        **{f"{node} killed": signalled(node, signal.SIGKILL) for node in NODES},
        **{f"{node} stopped": signalled(node, signal.SIGSTOP) for node in NODES},
        "server killed": signalled(SERVER, signal.SIGKILL),
        "server stopped": signalled(SERVER, signal.SIGSTOP),
        "launcher killed": Served.relaunch,
        "launcher killed, a node stopped": launcher_with_stopped_node,
    }


def measure_faults(plan: FaultsPlan, tell: Callable[[str], None]) -> FaultsReport:
    """Return what faults cost. They take turns, so that no pause after a recent fault of the same counts.

    Raises:
        GeneratorError: the load's generator failed.
        ServerError: the server does not start, or not again.
        ValueError: the plan names a fault that there is not.
    """
    known = faults()
    if unknown := set(plan.only) - known.keys():
        raise ValueError(f"only is {sorted(unknown)[0]}; allowed: {', '.join(known)}")
    chosen = {name: inject for name, inject in known.items() if not plan.only or name in plan.only}
    plan.out.mkdir(parents=True, exist_ok=True)
    made = make_random_bundle(ITEMS, plan.out / "bundles", tell, sizes=plan.sizes)
    trials: dict[str, list[Trial]] = {name: [] for name in chosen}
    with served(made.folder, plan.out) as running, Generators(1, plan.out / "load") as generators:
        load = Load(generators, _traffic(made, plan.out, running.endpoints.grpc_url), plan.rate)
        load.remember(1.2 * (BEFORE_S + max(plan.node_window_s, plan.server_window_s)))
        for repeat in range(plan.repeats):
            for name, inject in chosen.items():
                window_s = plan.node_window_s if name.split()[0] in NODES else plan.server_window_s
                _recover(running, tell)
                trials[name].append(_trial(running, load, inject, window_s))
                tell(f"{name} ({repeat + 1} of {plan.repeats}): {_told(trials[name][-1])}")
    settings = {"rate, 1/s": plan.rate, "preset": plan.sizes, "repeats": plan.repeats, "tolerance": TOLERANCE}
    return FaultsReport(
        machine=Machine.here(),
        settings=settings,
        trials={name: tuple(found) for name, found in trials.items()},
    )


class Load:
    """The same requests again and again, as many a second as asked for, whatever becomes of them."""

    def __init__(self, generators: Generators, plan: LoadPlan, rate: float) -> None:
        self._generators = generators
        self._plan = plan
        self._rate = rate
        self._right: dict[str, Answer] = {}
        self._runs = 0

    def remember(self, seconds: float) -> None:
        """Note the answers to all requests of so many seconds as the right ones."""
        self.start(seconds)
        self._right = {_key(recorded): recorded.answer for recorded in self.finish().answers}

    def start(self, seconds: float) -> None:
        """Begin, with the first request again."""
        self._runs += 1
        # Another plan, whose traffic begins anew.
        plan = replace(self._plan, outcomes=f"{self._runs}")
        window = WindowPlan(
            arrivals=Arrivals.POISSON, level=self._rate, seconds=seconds, keep_every=1, seed=SEED
        )
        self._generators.start(plan, window)
        self._generators.await_mark()

    def finish(self) -> Generated:
        """Return what became of the requests, after the last one is answered."""
        self._generators.await_mark()
        return self._generators.finish()

    def compare(self, answers: Sequence[RecordedAnswer]) -> tuple[int, int]:
        """Return how many answers were compared, and how many of them are wrong."""
        pairs = [(a.answer, self._right[_key(a)]) for a in answers if _key(a) in self._right]
        return len(pairs), sum(_differs(found, right) for found, right in pairs)


def _recover(running: Served, tell: Callable[[str], None]) -> None:
    """Wait for what the fault before has left; start anew what does not recover, of which its trial tells."""
    try:
        running.await_ready()
    except ServerError as error:
        tell(f"{error}; started anew")
        running.relaunch()
        running.await_ready()


def _trial(running: Served, load: Load, inject: Inject, window_s: float) -> Trial:
    load.start(BEFORE_S + window_s)
    time.sleep(BEFORE_S)
    at_s, began = time.time(), time.monotonic()
    is_clean = inject(running)
    ready_s = clean_s = None
    fell = False
    while time.monotonic() - began < window_s:
        passed = time.monotonic() - began
        ready = running.is_ready()
        fell |= not ready
        ready_s = (passed if fell and ready else None) if ready_s is None or not ready else ready_s
        clean_s = passed if clean_s is None and is_clean() else clean_s
        time.sleep(POLL_S)
    generated = load.finish()
    compared, wrong = load.compare(generated.answers)
    failed = [o for o in generated.outcomes if o.status != OK and o.done_s >= at_s]
    in_flight = sum(outcome.due_s < at_s for outcome in failed)
    return Trial(
        right_s=_right_after(generated.outcomes, failed, at_s),
        ready_s=ready_s,
        clean_s=clean_s,
        failed_in_flight=in_flight,
        failed_later=len(failed) - in_flight,
        answered=sum(outcome.status == OK for outcome in generated.outcomes),
        compared=compared,
        wrong=wrong,
    )


def _right_after(outcomes: Sequence[Outcome], failed: Sequence[Outcome], at_s: float) -> float | None:
    """The seconds from `at_s` until the first answer to what came after all that failed."""
    last_s = max((outcome.due_s for outcome in failed), default=at_s)
    answered = [outcome.done_s for outcome in outcomes if outcome.status == OK and outcome.due_s > last_s]
    ended = max((outcome.done_s for outcome in failed), default=at_s)
    return max(min(answered), ended) - at_s if answered else None


def _traffic(made: RandomBundle, out: Path, url: str) -> LoadPlan:
    model, items = made.manifest.model, out / f"items-{made.manifest.bundle_id}.npy"
    np.save(items, made.item_ids)
    drawn = DrawnUsers(
        users=USERS,
        least_events=2,
        most_events=2 * model.max_history,
        items=str(items),
        actions=model.num_actions,
        surfaces=model.num_surfaces,
        seed=SEED,
    )
    # Answers to users without a history are not kept, and so not compared.
    mix = TrafficMix(new=0, anonymous=0.3, returning=0.7)
    return LoadPlan(url=url, mix=mix, drawn=drawn, seed=SEED, timeout_s=10.0)


def _key(recorded: RecordedAnswer) -> str:
    return repr((recorded.history.user_id, recorded.history.as_fields()))


def _differs(found: Answer, right: Answer) -> bool:
    _, found_S, right_S = np.intersect1d(found.item_id_K, right.item_id_K, return_indices=True)
    most = max(len(found.item_id_K), len(right.item_id_K))
    pairs = [(found.score_K, right.score_K), (found.probability_KA, right.probability_KA)]
    close = all(np.allclose(a[found_S], b[right_S], rtol=0, atol=TOLERANCE) for a, b in pairs)
    return len(found_S) < (1 - STRANGERS) * most or not close


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _seconds_until(holds: Callable[[], bool], timeout_s: float) -> float | None:
    began = time.monotonic()
    while time.monotonic() - began < timeout_s:
        if holds():
            return time.monotonic() - began
        time.sleep(POLL_S)
    return None


def _longest(seconds: Sequence[float | None]) -> str:
    known = [second for second in seconds if second is not None]
    never = len(seconds) - len(known)
    return f"{max(known, default=0):.1f}" + (f", {never} never" if never else "") if seconds else ""


def _told(trial: Trial) -> str:
    fields = trial.model_dump()
    return ", ".join(f"{name} {value:.3g}" for name, value in fields.items() if value is not None)
