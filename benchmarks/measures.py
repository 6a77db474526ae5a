"""What recordings amount to: rates, percentiles and counts of one run, and their medians over rounds.

Shapes: R requests.
"""

import os
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.caller import OK
from benchmarks.load import Outcome, Recording
from benchmarks.report import Row, Spread


class NoAnswerError(RuntimeError):
    """Nothing was answered where something was to be measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One run of a load generator."""

    requests: int
    """Answered in the window."""
    qps: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    mean_ms: float
    """Of all answered requests of the run, also outside the window: what the server's own means are over."""
    errors: Mapping[str, int]
    kv_source: Mapping[str, int]
    client_cpu_share: float
    """Of all cores of the machine, in the window."""


def measure_closed(recording: Recording) -> Measured:
    """Requests whose reply came in the window.

    The rate is taken from the last reply before the window to the last one in it: replies come in bursts, one
    for each batch of the server, and so whole bursts are counted over whole gaps.

    Raises:
        NoAnswerError: there was no answer in the window.
    """
    answered = _answered(recording)
    inside = [one for one in answered if recording.begin_s < one.done_s <= recording.end_s]
    before = [one.done_s for one in answered if one.done_s <= recording.begin_s]
    began = max(before, default=recording.begin_s)
    ended = max((one.done_s for one in inside), default=recording.end_s)
    return _measured(recording, inside, ended - began)


def measure_open(recording: Recording) -> Measured:
    """All requests of a schedule, also those answered after its end.

    Raises:
        NoAnswerError: there was no answer.
    """
    answered = _answered(recording)
    ended = max([recording.end_s, *(one.done_s for one in answered)])
    return _measured(recording, answered, ended - recording.begin_s)


def _answered(recording: Recording) -> list[Outcome]:
    return [outcome for outcome in recording.outcomes if outcome.status == OK]


def _measured(recording: Recording, counted: Sequence[Outcome], took_s: float) -> Measured:
    errors = Counter(one.status for one in recording.outcomes if one.status != OK)
    if not counted:
        raise NoAnswerError(f"no request was answered in the window; errors: {dict(errors) or 'none'}")
    p50_ms, p90_ms, p99_ms = percentiles(_latencies_ms(counted), (50, 90, 99))
    cores = len(os.sched_getaffinity(0))
    return Measured(
        requests=len(counted),
        qps=len(counted) / took_s,
        p50_ms=p50_ms,
        p90_ms=p90_ms,
        p99_ms=p99_ms,
        mean_ms=float(_latencies_ms(_answered(recording)).mean()),
        errors=errors,
        kv_source=Counter(one.kv_source for one in counted),
        client_cpu_share=recording.client_cpu_s / (recording.end_s - recording.begin_s) / cores,
    )


def _latencies_ms(outcomes: Sequence[Outcome]) -> NDArray[np.float64]:
    return np.array([1e3 * (one.done_s - one.due_s) for one in outcomes], np.float64)


def percentiles(latency_R: NDArray[np.float64], wanted: Sequence[float]) -> list[float]:
    """The smallest of the values that so many percent of them do not exceed."""
    return [float(value) for value in np.percentile(latency_R, wanted, method="inverted_cdf")]


def spread(values: Sequence[float]) -> Spread:
    """Median over rounds, and the extremes."""
    return Spread(median=statistics.median(values), low=min(values), high=max(values))


SPREADS: dict[str, Callable[[Measured], float]] = {
    "qps": lambda one: one.qps,
    "p50_ms": lambda one: one.p50_ms,
    "p90_ms": lambda one: one.p90_ms,
    "p99_ms": lambda one: one.p99_ms,
    "client_cpu_share": lambda one: one.client_cpu_share,
}


def row_of(
    stack: str, rounds: Sequence[Measured], *, concurrency: int | None = None, rate: float | None = None
) -> Row:
    """One line of the report: medians over rounds, sums of counts."""
    spreads = {name: spread([value(one) for one in rounds]) for name, value in SPREADS.items()}
    errors = _total(one.errors for one in rounds)
    sources = _total(one.kv_source for one in rounds)
    return Row(
        stack=stack,
        arrival="open" if concurrency is None else "closed",
        concurrency=concurrency,
        rate=rate,
        rounds=len(rounds),
        requests=sum(one.requests for one in rounds),
        **{name: over.median for name, over in spreads.items()},
        errors=sum(errors.values()),
        errors_by_status=errors,
        kv_source=sources,
        hit_share=sources.get("prefix", 0) / sum(sources.values()),
        spreads=spreads,
    )


def _total(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for one in counts:
        total.update(one)
    return dict(total)
