"""Unified over separate, paired by round."""

import statistics
from collections.abc import Callable, Mapping, Sequence

from benchmarks.measures import Measured, spread
from benchmarks.report import Ratio

Levels = Mapping[int, Sequence[Measured]]
"""The rounds of one stack, by concurrency."""

ALONE = 1
"""The concurrency at which latencies are compared: what one request takes when nothing else is under way."""


def headline(unified: Levels, separate: Levels) -> dict[str, Ratio]:
    """`qps`, each stack at the concurrency that is best for it, and `p50` at concurrency 1 if it was run."""
    found = {"qps": ratio(unified, separate, _qps, (best_concurrency(unified), best_concurrency(separate)))}
    if ALONE in unified and ALONE in separate:
        found["p50"] = ratio(unified, separate, _p50_ms, (ALONE, ALONE))
    return found


def by_concurrency(unified: Levels, separate: Levels) -> dict[str, tuple[Ratio, ...]]:
    """`qps` and `p50` at every concurrency that both were run at."""
    levels = sorted(unified.keys() & separate.keys())
    return {
        name: tuple(ratio(unified, separate, value, (level, level)) for level in levels)
        for name, value in (("qps", _qps), ("p50", _p50_ms))
    }


def best_concurrency(levels: Levels) -> int:
    """Where the median rate is highest; the lowest of equals."""
    rates = {level: statistics.median(_qps(one) for one in rounds) for level, rounds in levels.items()}
    return min(rates, key=lambda level: (-rates[level], level))


def ratio(
    unified: Levels, separate: Levels, value: Callable[[Measured], float], at: tuple[int, int]
) -> Ratio:
    """The median of the ratios of each round, at the concurrencies `at` of unified and of separate."""
    pairs = zip(unified[at[0]], separate[at[1]], strict=True)
    rounds = [value(one) / value(other) for one, other in pairs]
    over = spread(rounds)
    return Ratio(
        value=over.median,
        low=over.low,
        high=over.high,
        rounds=tuple(rounds),
        unified_concurrency=at[0],
        separate_concurrency=at[1],
    )


def _qps(measured: Measured) -> float:
    return measured.qps


def _p50_ms(measured: Measured) -> float:
    return measured.p50_ms
