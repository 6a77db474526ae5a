"""The highest constant rate that keeps a latency: bracket, then bisection."""

from collections.abc import Callable
from dataclasses import dataclass

GROWTH = 1.5
"""Factor between the rates that are tried until one keeps and one breaks the limit."""


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
class Limits:
    """What a rate has to keep."""

    p99_ms: float
    least_reached: float = 0.9
    """Answered requests over due ones, both a second. A queue that grows shows here before it does in p99
    of a short window."""

    def kept(self, trial: Trial) -> bool:
        """Whether the trial kept all of it, and nothing failed."""
        return (
            not trial.errors
            and trial.p99_ms <= self.p99_ms
            and trial.reached >= self.least_reached * trial.rate
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """How a capacity is searched."""

    limits: Limits
    start: float
    """Requests a second tried first."""
    precision: float = 0.05
    """Found when the lowest rate that broke a limit is so little above the highest that kept them."""
    most_trials: int = 12
    """Trials until the best rate so far counts as found."""

    def run(self, measure: Callable[[float], Trial]) -> tuple[float, list[Trial]]:
        """The highest rate that kept the limits, below all that broke them; and all trials.

        Raises:
            CapacityError: every rate tried broke a limit.
        """
        trials: list[Trial] = []
        kept, broken, rate = 0.0, float("inf"), self.start
        while len(trials) < self.most_trials and broken > kept * (1 + self.precision):
            trials.append(measure(rate))
            if self.limits.kept(trials[-1]):
                kept = rate
            else:
                broken = rate
            rate = _next(kept, broken)
        if not kept:
            raise CapacityError(
                f"no rate from {trials[-1].rate:.3g} to {self.start:.3g} requests a second keeps p99 at most "
                f"{self.limits.p99_ms:.4g} ms; p99 of the last is {trials[-1].p99_ms:.4g} ms"
            )
        return kept, trials


def _next(kept: float, broken: float) -> float:
    if not kept:
        return broken / GROWTH
    if broken == float("inf"):
        return kept * GROWTH
    return (kept + broken) / 2
