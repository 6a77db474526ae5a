"""The highest constant rate that keeps a latency: bracket, then bisection, in windows of load."""

from collections.abc import Callable
from dataclasses import dataclass

from loadtest.generator import WindowPlan
from loadtest.measures import NothingMeasuredError
from loadtest.plan import LoadPlan
from loadtest.schedule import Arrivals
from loadtest.windows import Window, Windows

GROWTH = 1.5
"""Factor between the rates that are tried until one keeps and one breaks the limit."""

START_SHARE = 0.7
"""Share of the closed loop's rate that is tried first."""


class CapacityError(RuntimeError):
    """No rate keeps the limit."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One rate, tried."""

    rate: float
    """Requests a second that were due."""
    p99_ms: float
    """Infinite if nothing was answered."""
    reached: float
    """Requests a second that were answered."""
    errors: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """How a capacity is searched."""

    p99_ms: float
    """Latency that a rate has to keep."""
    start: float
    """Requests a second tried first."""
    precision: float = 0.05
    """Found when the lowest rate that broke a limit is so little above the highest that kept them."""
    most_trials: int = 12
    """Trials until the best rate so far counts as found."""
    least_reached: float = 0.9
    """Answered requests over due ones, both a second, that a rate has to keep. A queue that grows shows here
    before it does in p99 of a short window."""

    def keeps(self, trial: Trial) -> bool:
        """Return whether the trial kept the limits, and nothing failed."""
        in_time = trial.p99_ms <= self.p99_ms and trial.reached >= self.least_reached * trial.rate
        return in_time and not trial.errors

    def run(self, measure: Callable[[float], Trial]) -> tuple[float, list[Trial]]:
        """Return the highest rate that kept the limits, below all that broke them; and all trials.

        Raises:
            CapacityError: every rate tried broke a limit.
        """
        trials: list[Trial] = []
        kept, broken, rate = 0.0, float("inf"), self.start
        while len(trials) < self.most_trials and broken > kept * (1 + self.precision):
            trials.append(measure(rate))
            if self.keeps(trials[-1]):
                kept = rate
            else:
                broken = rate
            rate = _next(kept, broken)
        if not kept:
            raise CapacityError(
                f"no rate from {trials[-1].rate:.3g} to {self.start:.3g} requests a second keeps p99 at most "
                f"{self.p99_ms:.4g} ms; p99 of the last is {trials[-1].p99_ms:.4g} ms"
            )
        return kept, trials


def _next(kept: float, broken: float) -> float:
    if not kept:
        return broken / GROWTH
    if broken == float("inf"):
        return kept * GROWTH
    return (kept + broken) / 2


@dataclass(frozen=True, slots=True, kw_only=True)
class CapacityPlan:
    """How long and how closely to look."""

    p99_ms: float | None = None
    """Limit; None takes that of the closed loop."""
    seconds: float = 10.0
    """Length of a measured window. In a short one, p99 is of a few requests."""
    warm_up_s: float = 2.0
    """Discarded at the start of each window."""
    users: int = 16
    """Users of the closed loop."""
    arrivals: Arrivals = Arrivals.POISSON
    precision: float = 0.05
    most_trials: int = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class CapacityRun:
    """What was found."""

    lone_p50_ms: float
    p99_limit_ms: float
    rate: float
    """Highest rate that kept the limit."""
    closed_rps: float
    closed_p99_ms: float
    share: float
    """Found rate over the closed loop's."""
    saturated: str
    """What the closed loop saturated."""
    at_rate: str
    """What the found rate saturated."""
    trials: list[Trial]


def measure_capacity(
    windows: Windows, load: LoadPlan, plan: CapacityPlan, repeats: int, tell: Callable[[str], None]
) -> list[CapacityRun]:
    """Fill the server's cache, and search the capacity so many times.

    Raises:
        CapacityError: no rate keeps the limit.
        NothingMeasuredError: a lone request or the closed loop was not answered.
        GeneratorError: a load generator failed.
    """
    seed = load.seed

    def run(arrivals: Arrivals, level: float, warm_up_s: float = plan.warm_up_s) -> Window:
        nonlocal seed
        seed += 1
        return windows.run(
            load,
            WindowPlan(arrivals=arrivals, level=level, seconds=plan.seconds, warm_up_s=warm_up_s, seed=seed),
        )

    tell("settling")
    run(Arrivals.CLOSED, plan.users, 0.0)
    return [_measure(run, plan, tell) for _ in range(repeats)]


def _measure(
    run: Callable[[Arrivals, float], Window], plan: CapacityPlan, tell: Callable[[str], None]
) -> CapacityRun:
    tell("one request at a time")
    lone = run(Arrivals.CLOSED, 1)
    tell(f"closed loop of {plan.users} users")
    closed = run(Arrivals.CLOSED, plan.users)
    limit_ms = plan.p99_ms or closed.measured.p99_ms
    opened: dict[float, Window] = {}

    def trial(rate: float) -> Trial:
        tell(f"{rate:.4g} requests a second, p99 at most {limit_ms:.4g} ms")
        try:
            opened[rate] = run(plan.arrivals, rate)
        except NothingMeasuredError:
            return Trial(rate, float("inf"), 0.0)
        measured = opened[rate].measured
        # Arrivals of a random schedule differ from the rate; what counts is how many of them were answered.
        reached = rate * measured.rps_reached / measured.rps_asked
        return Trial(rate, measured.p99_ms, reached, measured.errors)

    search = Search(
        p99_ms=limit_ms,
        start=START_SHARE * closed.measured.rps_reached,
        precision=plan.precision,
        most_trials=plan.most_trials,
    )
    rate, trials = search.run(trial)
    return CapacityRun(
        lone_p50_ms=lone.measured.p50_ms,
        p99_limit_ms=limit_ms,
        rate=rate,
        closed_rps=closed.measured.rps_reached,
        closed_p99_ms=closed.measured.p99_ms,
        share=rate / closed.measured.rps_reached,
        saturated=closed.saturated(),
        at_rate=opened[rate].saturated(),
        trials=trials,
    )
