"""What outcomes amount to: rates, percentiles, errors and shares of the measured window.

Shapes: R requests.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from loadtest.outcomes import OK, Outcome

PERCENTILES = {"p50_ms": 50.0, "p90_ms": 90.0, "p99_ms": 99.0, "p99_9_ms": 99.9}


class NothingMeasuredError(RuntimeError):
    """No request was due in the measured window, or none was answered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One window. Latencies are of answered requests and exact; errors are counted apart."""

    requests: int
    """Due in the window."""
    answered: int
    seconds: float
    """From the window's begin until its end, or until the last answer to its requests if that is later."""
    rps_asked: float
    """Requests due in a second of the window; in a closed loop, what the users came to."""
    rps_reached: float
    """Answered in a second of `seconds`."""
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


def measure(outcomes: Sequence[Outcome], *, warm_up_s: float, seconds: float, began_s: float) -> Measured:
    """The requests due from `warm_up_s` to `warm_up_s + seconds` after `began_s`.

    Raises:
        NothingMeasuredError: none of them was answered.
    """
    begin_s = began_s + warm_up_s
    due = [one for one in outcomes if begin_s <= one.due_s < begin_s + seconds]
    errors = Counter(one.status for one in due if one.status != OK)
    answered = [one for one in due if one.status == OK]
    if not answered:
        raise NothingMeasuredError(
            f"no request of the window was answered; requests: {len(due)}, errors: {dict(errors) or 'none'}"
        )
    latency_R = np.array([one.latency_ms for one in answered])
    ended_s = max(one.due_s + one.latency_ms / 1e3 for one in answered)
    took_s = max(seconds, ended_s - begin_s)
    return Measured(
        requests=len(due),
        answered=len(answered),
        seconds=took_s,
        rps_asked=len(due) / seconds,
        rps_reached=len(answered) / took_s,
        **{name: percentile(latency_R, percent) for name, percent in PERCENTILES.items()},
        max_ms=float(latency_R.max()),
        errors=sum(errors.values()),
        error_rate=sum(errors.values()) / len(due),
        errors_by_status=dict(errors),
        kinds=_shares([one.kind for one in due]),
        kv_source=_shares([one.kv_source for one in answered]),
    )


def percentile(latency_R: NDArray[np.float64], percent: float) -> float:
    """The smallest of the values that so many percent of them do not exceed."""
    return float(np.percentile(latency_R, percent, method="inverted_cdf"))


def _shares(names: Sequence[str]) -> dict[str, float]:
    return {name: count / len(names) for name, count in sorted(Counter(names).items())}
