"""What windows of load amount to over rounds: medians and extremes, ratios paired by round, time by node."""

import os
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from benchmarks.unified.report import NodeTime, Ratio, Row, Stages
from loadtest.outcomes import OK
from loadtest.windows import Window

Levels = Mapping[int, Sequence[Window]]
"""The rounds of one stack, by concurrency."""

ALONE = 1
"""The concurrency at which latencies are compared: what one request takes when nothing else is under way."""

MEDIANS: dict[str, Callable[[Window], float]] = {
    "qps": lambda window: window.measured.rps_reached,
    "p50_ms": lambda window: window.measured.p50_ms,
    "p90_ms": lambda window: window.measured.p90_ms,
    "p99_ms": lambda window: window.measured.p99_ms,
    "client_cpu_share": lambda window: window.generator_cores / (os.cpu_count() or 1),
}


def row_of(
    stack: str, rounds: Sequence[Window], *, concurrency: int | None = None, rate: float | None = None
) -> Row:
    """Return one line of the report: medians over rounds, sums of counts."""
    values = {name: [value(window) for window in rounds] for name, value in MEDIANS.items()}
    seen = [outcome for window in rounds for outcome in window.outcomes]
    errors = Counter(outcome.status for outcome in seen if outcome.status != OK)
    sources = Counter[str]()
    for window in rounds:
        measured = window.measured
        sources.update({name: round(share * measured.answered) for name, share in measured.kv_source.items()})
    return Row(
        stack=stack,
        arrival="open" if concurrency is None else "closed",
        concurrency=concurrency,
        rate=rate,
        rounds=len(rounds),
        requests=sum(window.measured.answered for window in rounds),
        **{name: statistics.median(found) for name, found in values.items()},
        errors=sum(errors.values()),
        errors_by_status=errors,
        kv_source=sources,
        hit_share=sources["prefix"] / sum(sources.values()),
        spreads={name: (min(found), max(found)) for name, found in values.items()},
    )


def ratios(closed: Mapping[str, Levels]) -> dict[str, Ratio]:
    """Return `qps_cold` and `qps_warm`, each stack at the concurrency that is best for it, and `p50_cold` and
    `p50_warm` at concurrency 1, of the kinds that both stacks were run with."""
    found = {}
    for kind, (unified, separate) in _pairs(closed).items():
        best = best_concurrency(unified), best_concurrency(separate)
        found[f"qps_{kind}"] = _ratio(unified, separate, "qps", best)
        if ALONE in unified and ALONE in separate:
            found[f"p50_{kind}"] = _ratio(unified, separate, "p50_ms", (ALONE, ALONE))
    return found


def ratios_by_concurrency(closed: Mapping[str, Levels]) -> dict[str, tuple[Ratio, ...]]:
    """Return the same at every concurrency that both stacks were run at."""
    return {
        f"{name}_{kind}": tuple(
            _ratio(unified, separate, value, (level, level))
            for level in sorted(unified.keys() & separate.keys())
        )
        for kind, (unified, separate) in _pairs(closed).items()
        for name, value in (("qps", "qps"), ("p50", "p50_ms"))
    }


def _pairs(closed: Mapping[str, Levels]) -> dict[str, tuple[Levels, Levels]]:
    kinds = [stack.removeprefix("separate_") for stack in closed if stack.startswith("separate_")]
    return {kind: (closed[f"unified_{kind}"], closed[f"separate_{kind}"]) for kind in kinds}


def best_concurrency(levels: Levels) -> int:
    """Return the concurrency with the highest median rate; the lowest of equals."""
    return max(sorted(levels), key=lambda level: best_qps({level: levels[level]}))


def best_qps(levels: Levels) -> float:
    """Return the highest median rate of any concurrency."""
    return max(statistics.median(map(MEDIANS["qps"], rounds)) for rounds in levels.values())


def stages_of(stack: str, concurrency: int, nodes: Sequence[str], rounds: Sequence[Window]) -> Stages:
    """Return milliseconds of a request at every node, in this order, and elsewhere; means over all rounds."""
    times = tuple(
        NodeTime(
            node=node,
            queue_ms=statistics.fmean(window.nodes[node].queue_ms for window in rounds),
            compute_ms=statistics.fmean(window.nodes[node].compute_ms for window in rounds),
        )
        for node in nodes
    )
    # Also outside the window, since the server's means are over all requests.
    total_ms = statistics.fmean(
        statistics.fmean(outcome.latency_ms for outcome in window.outcomes if outcome.status == OK)
        for window in rounds
    )
    return Stages(
        stack=stack,
        concurrency=concurrency,
        nodes=times,
        rest_ms=total_ms - sum(time.queue_ms + time.compute_ms for time in times),
        total_ms=total_ms,
    )


def _ratio(unified: Levels, separate: Levels, name: str, at: tuple[int, int]) -> Ratio:
    """Return the ratio of a value, at the concurrencies `at` of unified and of separate."""
    value = MEDIANS[name]
    pairs = zip(unified[at[0]], separate[at[1]], strict=True)
    rounds = [value(window) / value(other) for window, other in pairs]
    return Ratio(
        value=statistics.median(rounds),
        low=min(rounds),
        high=max(rounds),
        rounds=tuple(rounds),
        unified_concurrency=at[0],
        separate_concurrency=at[1],
    )
