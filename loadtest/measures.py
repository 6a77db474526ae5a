"""What outcomes amount to: rates, percentiles, errors and shares of the measured window.

Shapes: R requests.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from loadtest.outcomes import OK, Outcome
from loadtest.schedule import Arrivals

PERCENTILES = {"p50_ms": 50.0, "p90_ms": 90.0, "p99_ms": 99.0, "p99_9_ms": 99.9}


class NothingMeasuredError(RuntimeError):
    """No request of the measured window was answered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One window. Latencies are of answered requests and exact; errors are counted apart."""

    requests: int
    """Due in the window; in a closed loop, those whose reply came in it."""
    answered: int
    seconds: float
    """What `rps_reached` is over."""
    rps_asked: float
    """`requests` in a second of the window."""
    rps_reached: float
    """Answered in a second, until the last answer to what was due in the window. In a closed loop from the
    last reply before the window to the last one in it: replies come in batches of the server, and so whole
    batches are counted over whole gaps."""
    p50_ms: float
    p90_ms: float
    p99_ms: float
    p99_9_ms: float
    max_ms: float
    errors: int
    error_rate: float
    errors_by_status: Mapping[str, int]
    kinds: Mapping[str, float]
    """Share of each kind of caller."""
    kv_source: Mapping[str, float]
    """Share of answers by where ranking had keys and values from."""


def measure(outcomes: Sequence[Outcome], arrivals: Arrivals, begin_s: float, end_s: float) -> Measured:
    """Return what the requests of the window from `begin_s` to `end_s`, in unix seconds, came to.

    Raises:
        NothingMeasuredError: none of them was answered.
    """
    if arrivals is Arrivals.CLOSED:
        inside = [outcome for outcome in outcomes if begin_s < outcome.done_s <= end_s]
        earlier = [outcome.done_s for outcome in outcomes if outcome.done_s <= begin_s]
        counted_from_s = max(earlier, default=begin_s)
    else:
        inside = [outcome for outcome in outcomes if begin_s <= outcome.due_s < end_s]
        counted_from_s = begin_s
    errors = Counter(outcome.status for outcome in inside if outcome.status != OK)
    answered = [outcome for outcome in inside if outcome.status == OK]
    if not answered:
        raise NothingMeasuredError(
            f"no request of the window was answered; requests: {len(inside)}, "
            f"errors: {dict(errors) or 'none'}"
        )
    latency_R = np.array([outcome.latency_ms for outcome in answered])
    last_s = max(outcome.done_s for outcome in answered)
    took_s = (last_s if arrivals is Arrivals.CLOSED else max(end_s, last_s)) - counted_from_s
    return Measured(
        requests=len(inside),
        answered=len(answered),
        seconds=took_s,
        rps_asked=len(inside) / (end_s - begin_s),
        rps_reached=len(answered) / took_s,
        **{name: percentile(latency_R, percent) for name, percent in PERCENTILES.items()},
        max_ms=float(latency_R.max()),
        errors=sum(errors.values()),
        error_rate=sum(errors.values()) / len(inside),
        errors_by_status=dict(errors),
        kinds=_shares([outcome.kind for outcome in inside]),
        kv_source=_shares([outcome.kv_source for outcome in answered]),
    )


def percentile(latency_R: NDArray[np.float64], percent: float) -> float:
    """Return the smallest of the values that so many percent of them do not exceed."""
    return float(np.percentile(latency_R, percent, method="inverted_cdf"))


def _shares(names: Sequence[str]) -> dict[str, float]:
    return {name: count / len(names) for name, count in sorted(Counter(names).items())}
