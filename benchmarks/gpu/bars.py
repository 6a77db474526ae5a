"""What was to be shown, beside what was measured."""

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.gpu.report import Bar, GpuReport

COLD_AT_RATE = "unified_cold"
"""The stack that the constant rate is sent to: no history of it is cached, as in PinRec."""

LEAST_REQUESTS = 100_000
"""Fewer compared answers show nothing."""


@dataclass(frozen=True, slots=True)
class _Wanted:
    """One bar."""

    name: str
    wanted: str
    read: Callable[[GpuReport], float | None]
    holds: Callable[[float], bool]


def bars_of(report: GpuReport) -> tuple[Bar, ...]:
    """All bars, also those of parts that were not run."""
    return tuple(_bar(one, report) for one in WANTED)


def _bar(wanted: _Wanted, report: GpuReport) -> Bar:
    measured = wanted.read(report)
    met = None if measured is None else wanted.holds(measured)
    return Bar(name=wanted.name, wanted=wanted.wanted, measured=measured, met=met)


def _speed_up(*names: str) -> Callable[[GpuReport], float | None]:
    """The most of these lines of the table."""

    def read(report: GpuReport) -> float | None:
        forwards = report.table.forwards if report.table else ()
        found = [one.speed_up for one in forwards if one.name in names and one.speed_up is not None]
        return max(found, default=None)

    return read


def _ratio(name: str) -> Callable[[GpuReport], float | None]:
    def read(report: GpuReport) -> float | None:
        found = report.served.ratios.get(name) if report.served else None
        return None if found is None else found.value

    return read


def _at_rate(name: str) -> Callable[[GpuReport], float | None]:
    def read(report: GpuReport) -> float | None:
        rows = report.arrivals.rows if report.arrivals else ()
        found: list[float] = [getattr(row, name) for row in rows if row.stack == COLD_AT_RATE]
        return max(found, default=None)

    return read


def _outside(report: GpuReport) -> float | None:
    return max((one.outside_share for one in report.idle or ()), default=None)


def _passed(report: GpuReport) -> float | None:
    return None if report.served is None else float(report.served.passing.keys_and_values_bytes)


def _differences(report: GpuReport) -> float | None:
    if report.answers is None or report.answers.requests < LEAST_REQUESTS:
        return None
    return float(len(report.answers.correctness.differences) + sum(report.answers.failed.values()))


def _at_least(bound: float) -> Callable[[float], bool]:
    return lambda value: value >= bound


def _at_most(bound: float) -> Callable[[float], bool]:
    return lambda value: value <= bound


WANTED = (
    _Wanted("speed-up of reusing keys and values", ">= 2.47", _speed_up("decode_sdpa"), _at_least(2.47)),
    _Wanted(
        "best speed-up in bfloat16",
        ">= 4",
        _speed_up("prefill_flex", "decode_sdpa", "decode_flex", "decode_flex_graph"),
        _at_least(4.0),
    ),
    _Wanted("speed-up with float8", ">= 5", _speed_up("decode_flex_graph_float8"), _at_least(5.0)),
    _Wanted("cold: QPS over separate", ">= 2", _ratio("qps_cold"), _at_least(2.0)),
    _Wanted("cold: p50 over separate", "<= 0.6", _ratio("p50_cold"), _at_most(0.6)),
    _Wanted("warm: QPS over separate", ">= 4", _ratio("qps_warm"), _at_least(4.0)),
    _Wanted("80 requests/s in 6 steps: p50 ms", "<= 12", _at_rate("p50_ms"), _at_most(12.0)),
    _Wanted("80 requests/s in 6 steps: p90 ms", "<= 20", _at_rate("p90_ms"), _at_most(20.0)),
    _Wanted("time outside kernels", "< 0.1", _outside, lambda value: value < 0.1),
    _Wanted("bytes of keys and values through the server", "0", _passed, lambda value: value == 0),
    _Wanted("differing or failed answers of 100,000", "0", _differences, lambda value: value == 0),
)
