"""What a server does with more requests than it can answer: its capacity, a flood of several times that, and
what comes after.

Everything is on this machine, the load generator too, on a server of random weights of its own.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from http.client import HTTPConnection
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

import numpy as np
from prometheus_client.parser import text_string_to_metric_families
from unipinrec_client import GrpcClient, RecommendRequest

from benchmarks.random_bundle import FIRST_ITEM, ITEM_STEP, make_random_bundle
from benchmarks.sweep.sweep import Measures, Point, Sweep, SweepReport, run_sweeps
from ensemble.nodes.metrics import EXPORT_S
from ensemble.server.embedded_server import EmbeddedServer, failure_of
from ensemble.server.launcher import UserCanary
from ensemble.server.loopback import serve_on_loopback
from ensemble.settings import ServingSettings
from ensemble.stores.history_store import EVENT, Events
from ensemble.stores.lmdb_store import LmdbHistoryStore
from loadtest.generator import WindowPlan
from loadtest.generators import Generated, Generators
from loadtest.measures import measure, percentile
from loadtest.outcomes import OK, Outcome
from loadtest.plan import LoadPlan, Protocol
from loadtest.schedule import Arrivals

ITEMS = 4_000
EVENTS = 100
FIRST_TIME = 1_700_000_000
UNAVAILABLE = "503"
PROMPT_MS = 50.0
"""Within which a refusal counts as one at once."""
PROBES_A_SECOND = 20.0
SLOWER = 2.0
"""Times the p99 of lone requests at which they count as normal again."""
CANARY_S = 2.0
BURST_S = 0.01


@dataclass(frozen=True, kw_only=True)
class FloodPlan:
    """What is measured, and for how long."""

    out: Path
    sizes: str = "demo"
    """Preset of the model."""
    users: int = 1_000
    """Of the store, who come in turns: more than the pool has slots, so that each is encoded anew."""
    callers: int = 64
    """Of the closed loop that finds the capacity."""
    capacity_s: float = 15.0
    times: float = 5.0
    """The flood over the capacity."""
    seconds: float = 60.0
    after_s: float = 10.0
    deadline_ms: float = 500.0
    burst: int = 250
    """Requests at once, with `burst_ms` each."""
    burst_ms: float = 200.0
    without_s: float = 15.0
    """Length of the same flood on a server that lets everybody in; 0 leaves it out."""


def measure_flood(plan: FloodPlan, tell: Callable[[str], None]) -> SweepReport:
    """Measure a server with admission, and one without. Raises `ServerError` if one does not start, and
    `GeneratorError` and `NothingMeasuredError` as load does."""
    bundle = make_random_bundle(ITEMS, plan.out / "bundles", tell, sizes=plan.sizes)
    found: dict[str, tuple[Point, ...]] = {}
    with TemporaryDirectory(dir=plan.out) as folder:
        settings = ServingSettings(
            bundle=bundle.folder, histories=Path(folder) / "histories", histories_url=None
        )
        with LmdbHistoryStore(settings.histories, writable=True) as store:
            for user in range(plan.users):
                store.append(b"user-%d" % user, _events(user))
        described = {"preset": plan.sizes, **asdict(replace(plan, out=Path(plan.out.name)))}
        described["out"] = plan.out.name
        with _running(settings, plan, "admission") as flood:
            phases = ("closed loop", "lone", "flood", "generator alone", "burst")
            report = run_sweeps("flood", described, [Sweep("with admission", phases, flood.measure)], tell)
            found |= report.sweeps
        if plan.without_s:
            rate = flood.capacity
            everybody = settings.model_copy(update={"max_in_flight": 0})
            shorter = replace(plan, seconds=plan.without_s)
            with _running(everybody, shorter, "no-admission") as flood:
                flood.capacity = rate
                sweep = Sweep("without admission", ("lone", "flood", "burst"), flood.measure)
                found |= run_sweeps("flood", described, [sweep], tell).sweeps
    return report.model_copy(update={"sweeps": found})


@dataclass(slots=True)
class Flood:
    """The phases on one server."""

    server: EmbeddedServer
    plan: FloodPlan
    load: Generators
    probe: Generators
    capacity: float = 0.0
    normal_ms: float = 0.0
    _seed: int = field(default=0)

    def measure(self, phase: str) -> Measures:
        """Return what a phase came to."""
        phases: dict[str, Callable[[], Measures]] = {
            "closed loop": self._closed_loop,
            "lone": self._lone,
            "flood": self._flood,
            "generator alone": self._generator_alone,
            "burst": self._burst,
        }
        return phases[phase]()

    def _closed_loop(self) -> Measures:
        window = WindowPlan(arrivals=Arrivals.CLOSED, level=self.plan.callers, warm_up_s=3.0)
        began, generated, marks = self._run(
            self.load, self._plan(), replace(window, seconds=self.plan.capacity_s)
        )
        measured = measure(generated.outcomes, Arrivals.CLOSED, *marks)
        self.capacity = measured.rps_reached
        return {
            "answered, 1/s": measured.rps_reached,
            "p50, ms": measured.p50_ms,
            "p99, ms": measured.p99_ms,
            "not answered, share": measured.error_rate,
            "generator, cores": generated.cpu_s / (time.time() - began),
        }

    def _lone(self) -> Measures:
        window = WindowPlan(arrivals=Arrivals.EVEN, level=PROBES_A_SECOND, seconds=5.0)
        _, generated, _ = self._run(self.probe, self._plan(), window)
        latency = np.array([outcome.latency_ms for outcome in generated.outcomes if outcome.status == OK])
        self.normal_ms = percentile(latency, 99)
        return {"p50, ms": percentile(latency, 50), "p99, ms": self.normal_ms}

    def _flood(self) -> Measures:
        rate = self.plan.times * self.capacity
        window = WindowPlan(arrivals=Arrivals.POISSON, level=rate, seconds=self.plan.seconds, seed=self._seed)
        probing = WindowPlan(
            arrivals=Arrivals.EVEN,
            level=PROBES_A_SECOND,
            seconds=self.plan.seconds + self.plan.after_s,
        )
        timed = self._plan(self.plan.deadline_ms)
        self.probe.start(timed, probing)
        self.probe.await_mark()
        with _canaries(self.server) as canaries:
            began, generated, (begin_s, end_s) = self._run(self.load, timed, window)
        took_s = time.time() - began
        self.probe.await_mark()
        after = [outcome for outcome in self.probe.finish().outcomes if outcome.due_s >= end_s]
        seconds, asked = end_s - begin_s, generated.outcomes
        answered = [outcome for outcome in asked if outcome.status == OK]
        in_time = sum(outcome.latency_ms <= self.plan.deadline_ms for outcome in answered)
        refused_R = np.array([outcome.latency_ms for outcome in asked if outcome.status == UNAVAILABLE])
        refused = {
            "refused, 1/s": len(refused_R) / seconds,
            "refused within 50 ms, share": float((refused_R <= PROMPT_MS).mean()) if len(refused_R) else 1.0,
        }
        if len(refused_R):
            refused |= {f"refusal p{p}, ms": percentile(refused_R, p) for p in (50, 90, 99)}
        return {
            "offered, 1/s": len(asked) / seconds,
            "answered in time, 1/s": in_time / seconds,
            "answered in time, share of capacity": in_time / seconds / self.capacity,
            "answered late, 1/s": (len(answered) - in_time) / seconds,
            **refused,
            "other, 1/s": (len(asked) - len(answered) - len(refused_R)) / seconds,
            "answer p50, ms": _p50(answered),
            "canaries answered, share": float(np.mean([took_s < float("inf") for took_s in canaries])),
            "slowest canary, ms": 1e3 * max(canaries, default=0.0),
            "generator, cores": generated.cpu_s / took_s,
            "normal again after, s": self._normal_after(after, end_s),
        }

    def _generator_alone(self) -> Measures:
        """The same rate to a model that is not there, which Triton refuses before it reads what came."""
        window = WindowPlan(arrivals=Arrivals.POISSON, level=self.plan.times * self.capacity, seconds=5.0)
        began, generated, (begin_s, end_s) = self._run(self.load, replace(self._plan(), model="none"), window)
        latency_R = np.array([outcome.latency_ms for outcome in generated.outcomes])
        return {
            "offered, 1/s": len(latency_R) / (end_s - begin_s),
            "refusal p50, ms": percentile(latency_R, 50),
            "refusal p99, ms": percentile(latency_R, 99),
            "generator, cores": generated.cpu_s / (time.time() - began),
        }

    def _burst(self) -> Measures:
        window = WindowPlan(arrivals=Arrivals.EVEN, level=self.plan.burst / BURST_S, seconds=BURST_S)
        before = self._ranked()
        self.load.start(self._plan(self.plan.burst_ms), window)
        self.load.await_mark()
        time.sleep(self.plan.burst_ms / 1e3)
        with closing(GrpcClient(self.server.grpc_url)) as client:
            began = time.monotonic()
            client.recommend(RecommendRequest(user_id="user-0"))
            next_ms = 1e3 * (time.monotonic() - began)
        self.load.await_mark()
        outcomes = self.load.finish().outcomes
        ranked = self._ranked() - before - 1
        in_time = sum(o.status == OK and o.latency_ms <= self.plan.burst_ms for o in outcomes)
        refused = sum(o.status == UNAVAILABLE and o.latency_ms <= self.plan.burst_ms for o in outcomes)
        return {
            "answered in time": in_time,
            "refused in time": refused,
            "ranked and not answered in time": ranked - in_time,
            "next caller waits, ms": next_ms,
        }

    def _normal_after(self, probes: Sequence[Outcome], end_s: float) -> float:
        odd = [o for o in probes if o.status != OK or o.latency_ms > SLOWER * self.normal_ms]
        return max((outcome.due_s - end_s for outcome in odd), default=0.0)

    def _plan(self, deadline_ms: float | None = None) -> LoadPlan:
        return LoadPlan(
            url=self.server.http_url.rpartition("://")[2],
            protocol=Protocol.BARE,
            stored=tuple(f"user-{number}" for number in range(self.plan.users)),
            deadline_ms=deadline_ms,
        )

    def _run(
        self, generators: Generators, plan: LoadPlan, window: WindowPlan
    ) -> tuple[float, Generated, tuple[float, float]]:
        """When the window was ordered, what was generated, and from when to when, in unix seconds."""
        self._seed += 1
        began = time.time()
        generators.start(plan, window)
        begin_s, end_s = min(generators.await_mark()), max(generators.await_mark())
        return began, generators.finish(), (begin_s, end_s)

    def _ranked(self) -> float:
        time.sleep(2 * EXPORT_S)
        parts = urlsplit(self.server.metrics_url)
        with closing(HTTPConnection(parts.hostname or "", parts.port, timeout=5.0)) as connection:
            connection.request("GET", parts.path)
            text = connection.getresponse().read().decode()
        samples = (s for family in text_string_to_metric_families(text) for s in family.samples)
        return sum(
            s.value
            for s in samples
            if s.name.startswith("unipinrec_batch_rows_sum") and s.labels["node"] == "ranking"
        )


@contextmanager
def _running(settings: ServingSettings, plan: FloodPlan, name: str) -> Iterator[Flood]:
    with (
        serve_on_loopback(settings, log_path=plan.out / f"flood-{name}.log") as server,
        Generators(1, plan.out / "flood-load") as load,
        Generators(1, plan.out / "flood-probe") as probe,
    ):
        yield Flood(server, plan, load, probe)


@contextmanager
def _canaries(server: EmbeddedServer) -> Iterator[list[float]]:
    """Send what the watchdog sends while the block runs; the seconds that each took come into the list,
    infinite where it failed."""
    took_s: list[float] = []
    stopped = threading.Event()

    def send() -> None:
        with server.client() as client:
            while not stopped.wait(CANARY_S):
                began = time.monotonic()
                failed = failure_of(UserCanary(), client)
                took_s.append(float("inf") if failed else time.monotonic() - began)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield took_s
    finally:
        stopped.set()
        thread.join()


def _events(user: int) -> Events:
    made = np.zeros(EVENTS, EVENT)
    made["item_id"] = FIRST_ITEM + ITEM_STEP * ((user + 7 * np.arange(EVENTS)) % ITEMS)
    made["actions"] = 1
    made["timestamp"] = FIRST_TIME + np.arange(EVENTS)
    return made


def _p50(outcomes: Sequence[Outcome]) -> float:
    return percentile(np.array([outcome.latency_ms for outcome in outcomes]), 50) if outcomes else 0.0
