"""Stacks in turn, on one server and in one run: a machine's mood meets all of them alike."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from benchmarks.load import Sample, closed_loop, fill, open_loop, poisson_schedule
from benchmarks.measures import Measured, measure_closed, measure_open, row_of
from benchmarks.report import Row, Stages
from benchmarks.stages import mean_stages, stages_of
from benchmarks.target import SEPARATE, Target
from benchmarks.workload import ColdTraffic, ReturningTraffic, Traffic, WarmTraffic

FILL_CONCURRENCY = 4
WARM_UP_CONCURRENCY = 4
SEEDS_PER_RUN = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadPlan:
    """How stacks are loaded."""

    concurrencies: tuple[int, ...]
    rounds: int
    seconds: float
    """Length of a measured window, at least."""
    least_replies: int
    """Replies in a window, at least, for a median that says something."""
    ramp_s: float
    """From the first replies under load to the window."""
    open_seconds: float
    """For which requests arrive at each rate."""
    rate_shares: tuple[float, ...]
    """Rates of open-loop arrivals, as shares of the most that the unified stack answered."""
    timeout_s: float
    """A request that takes longer has failed."""
    warm_users: int
    """Returning users; as many as requests are in flight, where that is more."""
    seed: int


@dataclass(slots=True)
class StackResults:
    """What was seen of one stack."""

    closed: dict[int, list[Measured]] = field(default_factory=lambda: defaultdict(list))
    """Rounds by concurrency."""
    opened: dict[float, list[Measured]] = field(default_factory=lambda: defaultdict(list))
    """Runs by rate."""
    stages: dict[int, list[Stages]] = field(default_factory=lambda: defaultdict(list))
    """Rounds by concurrency."""
    samples: list[Sample] = field(default_factory=list)

    def rows(self, stack: str) -> Iterator[Row]:
        """A line for each load."""
        for concurrency, rounds in self.closed.items():
            yield row_of(stack, rounds, concurrency=concurrency)
        for rate, rounds in self.opened.items():
            yield row_of(stack, rounds, rate=rate)

    def mean_stages(self, concurrency: int) -> Stages:
        """Where the time went, over all rounds."""
        return mean_stages(self.stages[concurrency])


class Comparison:
    """Runs the stacks of a target in turn and keeps what was seen."""

    def __init__(self, target: Target, plan: LoadPlan, tell: Callable[[str], None]) -> None:
        """`tell` is told what runs next."""
        self.plan = plan
        self.results = {stack: StackResults() for stack in target.models}
        self._target = target
        self._tell = tell
        self._seed = SEEDS_PER_RUN * plan.seed

    def warm_up(self) -> None:
        """Load every stack once, uncounted: graphs are optimised while they run for the first times."""
        for stack in self.results:
            self._tell(f"warm-up, {stack}")
            self._run_closed(stack, self._traffic(stack, WARM_UP_CONCURRENCY), WARM_UP_CONCURRENCY)
        self.results = {stack: StackResults() for stack in self.results}

    def run_rounds(self) -> None:
        """All rounds at all concurrencies; the order of the stacks is another in each round."""
        for place in range(self.plan.rounds):
            for concurrency in self.plan.concurrencies:
                for stack in rotated(list(self.results), place):
                    self._tell(f"round {place + 1} of {self.plan.rounds}, {concurrency} in flight, {stack}")
                    self._run_closed(stack, self._traffic(stack, concurrency), concurrency)

    def run_schedule(self, stacks: Sequence[str], rates: Sequence[float]) -> None:
        """Poisson arrivals at each rate; each of the stacks meets the same schedule."""
        for place, rate in enumerate(rates):
            for stack in rotated(stacks, place):
                self._tell(f"{rate:.1f} arrivals a second, {stack}")
                due_S = poisson_schedule(rate, self.plan.open_seconds, self.plan.seed + place)
                traffic = self._traffic(stack, max(self.plan.concurrencies))
                recording = open_loop(self._target.caller(stack, self.plan.timeout_s), traffic, due_S)
                self.results[stack].opened[rate].append(measure_open(recording))
                self.results[stack].samples += recording.samples

    def run_once(self, stack: str, traffic: Traffic, concurrency: int) -> None:
        """One window of traffic that the caller has made."""
        self._tell(f"{concurrency} in flight, {stack}")
        self._run_closed(stack, traffic, concurrency)

    def fill(self, stack: str, traffic: ReturningTraffic) -> None:
        """The first pass of a traffic, not measured."""
        self._tell(f"first pass, {stack}")
        fill(self._target.caller(stack, self.plan.timeout_s), traffic, FILL_CONCURRENCY)

    def _run_closed(self, stack: str, traffic: Traffic, concurrency: int) -> None:
        target, results = self._target, self.results[stack]
        nodes = target.nodes(stack)
        before = target.statistics.settled(nodes)
        recording = closed_loop(
            target.caller(stack, self.plan.timeout_s),
            traffic,
            concurrency=concurrency,
            ramp_s=self.plan.ramp_s,
            seconds=self.plan.seconds,
            least_replies=self.plan.least_replies,
        )
        after = target.statistics.settled(nodes)
        measured = measure_closed(recording)
        counted = {node: after[node] - before[node] for node in nodes}
        stages = stages_of(stack, concurrency, counted, measured.mean_ms)
        results.closed[concurrency].append(measured)
        results.stages[concurrency].append(stages)
        results.samples += recording.samples

    def _traffic(self, stack: str, in_flight: int) -> Traffic:
        """Traffic of the stack's kind, by users whom no earlier run has had: no stack finds keys and values
        that another has left. Returning users have made their first pass, where that fills something."""
        self._seed += 1
        if stack.endswith("cold"):
            return ColdTraffic(self._target.space, self._seed)
        traffic = WarmTraffic(self._target.space, self._seed, max(self.plan.warm_users, in_flight))
        if self._target.models[stack] != SEPARATE:
            fill(self._target.caller(stack, self.plan.timeout_s), traffic, FILL_CONCURRENCY)
        return traffic


def rotated(stacks: Sequence[str], by: int) -> list[str]:
    """The same stacks, beginning at another one."""
    start = by % len(stacks)
    return [*stacks[start:], *stacks[:start]]
