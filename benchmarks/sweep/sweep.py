"""A sweep: one thing is varied over values, and everything is measured at each of them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch.utils.benchmark import Timer

from experiments.report import Machine
from loadtest.render import Line, Panel, draw, table
from unipinrec.config import Config
from unipinrec.evaluation.bootstrap import Estimate

Measures = Mapping[str, float | Estimate]
"""By what was measured, with its unit behind the last comma where it has one: `whole history, ms`."""


class Point(Config):
    """What was measured at one value."""

    value: int | str
    measured: dict[str, float | Estimate]


class SweepReport(Config):
    """What was found about one subject."""

    subject: str
    machine: Machine
    settings: dict[str, Any]
    """What was the same throughout, and how it was measured."""
    sweeps: dict[str, tuple[Point, ...]]
    """By what was varied."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """One thing that is varied."""

    name: str
    values: Sequence[int | str]
    measure: Callable[[Any], Measures]
    """Takes a value. Values come in their order, so that it can compare with the first."""


def run_sweeps(
    subject: str, settings: dict[str, Any], sweeps: Sequence[Sweep], tell: Callable[[str], None]
) -> SweepReport:
    """Measure all values of all sweeps on one thread; `tell` gets a line for each."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            found = {sweep.name: tuple(_points(sweep, tell)) for sweep in sweeps}
        return SweepReport(subject=subject, machine=Machine.here(), settings=settings, sweeps=found)
    finally:
        torch.set_num_threads(threads)


def _points(sweep: Sweep, tell: Callable[[str], None]) -> Iterator[Point]:
    for value in sweep.values:
        point = Point(value=value, measured=dict(sweep.measure(value)))
        measured = "; ".join(f"{name} {_text(found)}" for name, found in point.measured.items())
        tell(f"{sweep.name} {value}: {measured}")
        yield point


def median_ms(call: Callable[[], object], seconds: float, threads: int = 1) -> float:
    """Return the median milliseconds of a call on so many threads, over calls of at least so many seconds."""
    # Graphs are optimised or compiled in their first runs.
    for _ in range(3):
        call()
    timer = Timer("call()", globals={"call": call}, num_threads=threads)
    return 1e3 * float(timer.blocked_autorange(min_run_time=seconds).median)


def tables(report: SweepReport) -> Iterator[Table]:
    """Yield a table of each sweep, with a row for each measure and a column for each value."""
    for name, points in report.sweeps.items():
        measures = dict.fromkeys(measure for point in points for measure in point.measured)
        yield table(
            name,
            (
                {"": measure} | {str(p.value): _text(p.measured.get(measure)) for p in points}
                for measure in measures
            ),
        )


def plot(report: SweepReport, path: Path) -> None:
    """Draw a column for each sweep over numbers, and a row for each unit; nothing without such sweeps."""
    numeric = {name: points for name, points in report.sweeps.items() if isinstance(points[0].value, int)}
    units = {_unit(name): None for points in numeric.values() for point in points for name in point.measured}
    if numeric:
        panels = [[_panel(name, points, unit) for name, points in numeric.items()] for unit in units]
        title = f"{report.settings['preset']}, one thread, {report.machine.processor}"
        draw(path, title, panels, (3.3 * len(numeric), 3 * len(units)))


def _panel(name: str, points: Sequence[Point], unit: str) -> Panel:
    measures = dict.fromkeys(m for point in points for m in point.measured if _unit(m) == unit)
    lines = {
        measure: Line(
            x=[point.value for point in points if measure in point.measured],
            y=[point.measured[measure] for point in points if measure in point.measured],
        )
        for measure in measures
    }
    values = [point.value for point in points]
    labels = {"xlabel": name, "ylabel": unit, "xscale": "log", "yscale": "log" if lines else "linear"}
    return Panel(lines=lines, axes=labels, ticks=values[:: max(1, len(values) // 4)])


def _unit(measure: str) -> str:
    return measure.rpartition(", ")[2]


def _text(found: float | Estimate | None) -> str:
    if isinstance(found, Estimate):
        return f"{found.mean:.4f} ({found.low:.4f} to {found.high:.4f})"
    return "" if found is None else f"{found:,.4g}"
