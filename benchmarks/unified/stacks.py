"""Stacks in turn, on one server and in one run: a machine's mood meets all of them alike."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.random_bundle import RandomBundle
from benchmarks.unified.measures import best_concurrency, row_of, stages_of
from benchmarks.unified.plan import Kind, StackLoad
from benchmarks.unified.report import Row, Stages
from benchmarks.unified.traffic import COLD_USERS, traffic_plan
from ensemble.graph import MODEL_REPOSITORY, ensembles_in
from ensemble.server.embedded_server import EmbeddedServer
from ensemble.server.loopback import serve_on_loopback
from ensemble.server.selection import BASELINE
from ensemble.settings import ServingSettings
from loadtest.answers import RecordedAnswer
from loadtest.generator import WindowPlan
from loadtest.generators import Generators
from loadtest.outcomes import OK
from loadtest.plan import LoadPlan
from loadtest.schedule import Arrivals
from loadtest.watch import ServerWatch
from loadtest.windows import Window, Windows

UNIFIED, SEPARATE = "recommend", BASELINE

CONCURRENCY = 4
"""Requests in flight in the warm-up and in first passes."""

REPLIES_PER_USER = 2
"""A window goes on until so many replies have come for each request in flight: they come in batches, of which
a short window would hold a part."""

KEEP_EVERY = 3
"""One answer of so many is kept for comparison."""


class FillError(RuntimeError):
    """A cache could not be filled."""


@dataclass(slots=True)
class StackResults:
    """What was seen of one stack."""

    nodes: tuple[str, ...]
    """Its models, in order."""
    closed: dict[int, list[Window]] = field(default_factory=lambda: defaultdict(list))
    """Rounds by concurrency."""
    opened: dict[float, list[Window]] = field(default_factory=lambda: defaultdict(list))
    """Runs by rate."""

    @property
    def answers(self) -> list[RecordedAnswer]:
        """The answers that were kept, in order."""
        rounds = (*self.closed.values(), *self.opened.values())
        return [answer for windows in rounds for window in windows for answer in window.answers]

    def rows(self, stack: str) -> Iterator[Row]:
        """Yield a line for each load."""
        for concurrency, rounds in self.closed.items():
            yield row_of(stack, rounds, concurrency=concurrency)
        for rate, rounds in self.opened.items():
            yield row_of(stack, rounds, rate=rate)

    def stages(self, stack: str) -> Iterator[Stages]:
        """Yield where time goes one request at a time, and under the load of which most was answered."""
        for level in sorted({min(self.closed), best_concurrency(self.closed)}):
            yield stages_of(stack, level, self.nodes, self.closed[level])


class Comparison:
    """Runs stacks in turn on a running server and keeps what was seen."""

    def __init__(
        self,
        made: RandomBundle,
        server: EmbeddedServer,
        windows: Windows,
        models: Mapping[str, str],
        load: StackLoad,
        folder: Path,
        tell: Callable[[str], None],
    ) -> None:
        """`models` are the ensembles behind the stacks; `tell` is told what runs next."""
        self.load = load
        self.server = server
        self._made = made
        self._windows = windows
        self._models = models
        self._folder = folder
        self._tell = tell
        self._seed = 1_000 * load.seed
        self._forget()

    def describe(self) -> dict[str, Any]:
        """Return the server's version, and the number of processes of each model that has some."""
        with self.server.client() as client:
            version = client.get_server_metadata(as_json=True)["version"]
        processes = {model: len(self.server.node_processes(model)) for model in self.server.models}
        return {"triton": version, "instances": {model: count for model, count in processes.items() if count}}

    def warm_up(self) -> None:
        """Load every stack once, uncounted: graphs are optimised while they run for the first times."""
        for stack in self._models:
            self._tell(f"warm-up, {stack}")
            self.run_window(stack, CONCURRENCY)
        self._forget()

    def run_rounds(self) -> None:
        """Run all rounds at all concurrencies; the order of the stacks is another in each round."""
        for place in range(self.load.rounds):
            for concurrency in self.load.concurrencies:
                for stack in rotated(list(self._models), place):
                    self._tell(f"round {place + 1} of {self.load.rounds}, {concurrency} in flight, {stack}")
                    self.run_window(stack, concurrency)

    def run_window(self, stack: str, concurrency: int) -> Window:
        """Run one window of a stack's own traffic, of users that no earlier window had."""
        return self.run_closed(stack, self._plan(stack, concurrency), concurrency)

    def run_schedule(self, stacks: Sequence[str], rates: Sequence[float]) -> None:
        """Run Poisson arrivals at each rate; each of the stacks meets the same schedule."""
        for place, rate in enumerate(rates):
            for stack in rotated(stacks, place):
                self._tell(f"{rate:.1f} arrivals a second, {stack}")
                window = WindowPlan(
                    arrivals=Arrivals.POISSON,
                    level=rate,
                    seconds=self.load.open_seconds,
                    keep_every=KEEP_EVERY,
                    seed=self.load.seed + place,
                )
                plan = self._plan(stack, max(self.load.concurrencies))
                self.results[stack].opened[rate].append(self._windows.run(plan, window))

    def run_closed(self, stack: str, plan: LoadPlan, concurrency: int) -> Window:
        """Run one window with so many requests in flight, and return it."""
        window = WindowPlan(
            arrivals=Arrivals.CLOSED,
            level=concurrency,
            seconds=self.load.seconds,
            warm_up_s=self.load.ramp_s,
            least_replies=max(self.load.least_replies, REPLIES_PER_USER * concurrency),
            keep_every=KEEP_EVERY,
        )
        found = self._windows.run(plan, window)
        self.results[stack].closed[concurrency].append(found)
        return found

    def fill(self, plan: LoadPlan, users: int) -> None:
        """Send the first visits of so many users, not measured.

        Raises:
            FillError: a request failed, so that the cache does not hold what is measured next.
        """
        window = WindowPlan(arrivals=Arrivals.CLOSED, level=CONCURRENCY, first_pass=users)
        for outcome in self._windows.first_pass(plan, window):
            if outcome.status != OK:
                raise FillError(f"a request that was to fill the cache was answered with {outcome.status}")

    def plan(self, stack: str, kind: Kind, users: int = COLD_USERS) -> LoadPlan:
        """Return traffic of users whom no earlier plan has had: no stack finds keys and values that another
        has left."""
        self._seed += 1
        traffic = traffic_plan(self._made, kind, folder=self._folder, users=users, seed=self._seed)
        url, model, timeout_s = self.server.grpc_url, self._models[stack], self.load.timeout_s
        return replace(traffic, url=url, model=model, timeout_s=timeout_s)

    def _plan(self, stack: str, in_flight: int) -> LoadPlan:
        """Return traffic of the stack's kind; returning users have come once, where that fills something."""
        if stack.endswith(Kind.COLD):
            return self.plan(stack, Kind.COLD)
        users = max(self.load.warm_users, in_flight)
        plan = self.plan(stack, Kind.WARM, users)
        if self._models[stack] != SEPARATE:
            self.fill(plan, users)
        return plan

    def _forget(self) -> None:
        graphs = ensembles_in(MODEL_REPOSITORY)
        self.results = {
            stack: StackResults(tuple(step.node for step in graphs[model].steps))
            for stack, model in self._models.items()
        }


@contextmanager
def comparing(
    made: RandomBundle,
    settings: ServingSettings,
    models: Mapping[str, str],
    load: StackLoad,
    log: Path,
    tell: Callable[[str], None],
    **options: Any,
) -> Iterator[Comparison]:
    """Yield a comparison of stacks on a server of their own, which ends with the block.

    `options` are further ones of `serve_on_loopback`; what else is written goes to the folder of the `log`.

    Raises:
        ServerError: the server does not start.
    """
    baseline = SEPARATE in models.values()
    with (
        serve_on_loopback(settings, baseline=baseline, log_path=log, **options) as server,
        Generators(1, log.parent) as generators,
    ):
        windows = Windows(generators, ServerWatch({}, server.metrics_url))
        yield Comparison(made, server, windows, models, load, log.parent, tell)


def rotated(stacks: Sequence[str], by: int) -> list[str]:
    """Return the same stacks, beginning at another one."""
    start = by % len(stacks)
    return [*stacks[start:], *stacks[:start]]
