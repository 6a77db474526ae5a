"""One measurement of capacity: a lone request, a closed loop, and the highest rate that keeps p99."""

from collections.abc import Callable
from dataclasses import dataclass

from loadtest.capacity import Limits, Search, Trial
from loadtest.measures import NothingMeasuredError
from loadtest.schedule import Arrivals
from loadtest.windows import Window, Windows

START_SHARE = 0.7
"""Of the closed loop's rate, tried first."""


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
    """Of the closed loop."""
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
    """The same at the found rate."""
    trials: list[Trial]


def measure_capacity(windows: Windows, plan: CapacityPlan, tell: Callable[[str], None]) -> CapacityRun:
    """Run all windows.

    Raises:
        CapacityError: no rate keeps the limit.
        NothingMeasuredError: a lone request or the closed loop was not answered.
        GeneratorError: a load generator failed.
    """
    length = {"seconds": plan.seconds, "warm_up_s": plan.warm_up_s}
    tell("one request at a time")
    lone = windows.run(Arrivals.CLOSED, 1, **length)
    tell(f"closed loop of {plan.users} users")
    closed = windows.run(Arrivals.CLOSED, plan.users, **length)
    limit_ms = plan.p99_ms or closed.measured.p99_ms
    opened: dict[float, Window] = {}

    def trial(rate: float) -> Trial:
        tell(f"{rate:.4g} requests a second, p99 at most {limit_ms:.4g} ms")
        try:
            window = opened[rate] = windows.run(plan.arrivals, rate, **length)
        except NothingMeasuredError:
            return Trial(rate, float("inf"), 0.0)
        measured = window.measured
        # Arrivals of a random schedule differ from the rate; what counts is how many of them were answered.
        reached = rate * measured.rps_reached / measured.rps_asked
        return Trial(rate, measured.p99_ms, reached, measured.errors)

    search = Search(
        limits=Limits(p99_ms=limit_ms),
        start=START_SHARE * closed.measured.rps_reached,
        precision=plan.precision,
        most_trials=plan.most_trials,
    )
    rate, trials = search.run(trial)
    at_rate = opened[rate]
    return CapacityRun(
        lone_p50_ms=lone.measured.p50_ms,
        p99_limit_ms=limit_ms,
        rate=rate,
        closed_rps=closed.measured.rps_reached,
        closed_p99_ms=closed.measured.p99_ms,
        share=rate / closed.measured.rps_reached,
        saturated=closed.usage.saturated(closed.generator_cores),
        at_rate=at_rate.usage.saturated(at_rate.generator_cores),
        trials=trials,
    )
