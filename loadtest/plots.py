"""Pictures of a run: latency, throughput and errors over time; rates tried; memory.

Shapes: E edges between points in time.
"""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from loadtest.capacity import CapacityRun
from loadtest.measures import PERCENTILES, percentile
from loadtest.outcomes import OK, Outcome
from loadtest.render import Line, Panel, draw
from loadtest.soak import MemorySample

POINTS = 60
"""Points over time at most; none stands for less than half a second."""

MIB = 2**20


def plot_load(
    path: Path,
    outcomes: Sequence[Outcome],
    *,
    began_s: float,
    measured_from_s: float,
    title: str,
    memory: Sequence[MemorySample] = (),
) -> None:
    """Draw latency percentiles, below them requests and errors a second, both by when a request was due; and
    memory, if there are samples of it."""
    panels = [_latency(outcomes, began_s, measured_from_s), _rates(outcomes, began_s, measured_from_s)]
    if memory:
        at = [sample.at_s for sample in memory]
        panels.append(
            Panel(
                lines={
                    "resident, all processes": Line(x=at, y=[s.rss_bytes / MIB for s in memory], style="-"),
                    "shared memory": Line(x=at, y=[s.shared_bytes / MIB for s in memory], style="-"),
                },
                axes={"xlabel": "s", "ylabel": "MiB", "ylim": (0, None)},
            )
        )
    draw(path, title, [[panel] for panel in panels], (9, 3 * len(panels)))


def plot_capacity(path: Path, runs: Sequence[CapacityRun], title: str) -> None:
    """Draw p99 against the rate of each trial, with the limit, the found rate and the closed loop's."""
    lines: dict[str, Line] = {}
    for number, run in enumerate(runs, start=1):
        colour = f"C{number - 1}"
        shown = sorted((t for t in run.trials if np.isfinite(t.p99_ms)), key=lambda trial: trial.rate)
        rates, latencies = [trial.rate for trial in shown], [trial.p99_ms for trial in shown]
        ends = [min(latencies), max(latencies)]
        share = f"{run.rate:.4g} a second, {run.share:.0%} of the closed loop's"
        lines |= {
            f"run {number}: {share}": Line(x=rates, y=latencies, style=f"o-{colour}"),
            f"run {number}, found": Line(x=[run.rate] * 2, y=ends, style=f":{colour}"),
            f"run {number}, closed loop": Line(x=[run.closed_rps] * 2, y=ends, style=f"--{colour}"),
            f"run {number}, limit": Line(
                x=[rates[0], rates[-1]], y=[run.p99_limit_ms] * 2, style=f"-.{colour}"
            ),
        }
    labels = {"xlabel": "requests due a second", "ylabel": "p99 in ms"}
    draw(path, title, [[Panel(lines=lines, axes=labels | {"yscale": "log", "xlim": (0, None)})]], (9, 6))


def _latency(outcomes: Sequence[Outcome], began_s: float, measured_from_s: float) -> Panel:
    answered = [outcome for outcome in outcomes if outcome.status == OK]
    at = np.array([outcome.due_s - began_s for outcome in answered])
    latency = np.array([outcome.latency_ms for outcome in answered])
    edge_E = _edges(outcomes, began_s)
    inside = [latency[(at >= low) & (at < high)] for low, high in pairwise(edge_E)]
    return Panel(
        lines={
            name.removesuffix("_ms").replace("_", "."): Line(
                x=_middles(edge_E),
                y=[percentile(some, percent) if len(some) else np.nan for some in inside],
                style="-",
            )
            for name, percent in PERCENTILES.items()
        },
        axes={"ylabel": "ms from when due", "yscale": "log"},
        shaded=(0, measured_from_s),
    )


def _rates(outcomes: Sequence[Outcome], began_s: float, measured_from_s: float) -> Panel:
    edge_E = _edges(outcomes, began_s)
    seconds = edge_E[1] - edge_E[0]
    series = {
        "due": ("-C7", [outcome.due_s for outcome in outcomes]),
        "answered": ("-C0", [outcome.done_s for outcome in outcomes if outcome.status == OK]),
        "errors": ("-C3", [outcome.due_s for outcome in outcomes if outcome.status != OK]),
    }
    return Panel(
        lines={
            name: Line(
                x=_middles(edge_E), y=np.histogram(np.array(at) - began_s, edge_E)[0] / seconds, style=style
            )
            for name, (style, at) in series.items()
        },
        axes={"xlabel": "s", "ylabel": "requests a second", "ylim": (0, None)},
        shaded=(0, measured_from_s),
    )


def _edges(outcomes: Sequence[Outcome], began_s: float) -> NDArray[np.float64]:
    last = max((outcome.due_s - began_s for outcome in outcomes), default=1.0)
    return np.linspace(0.0, max(last, 0.5), int(np.clip(last / 0.5, 1, POINTS)) + 1)


def _middles(edge_E: NDArray[np.float64]) -> list[float]:
    middles: list[float] = ((edge_E[:-1] + edge_E[1:]) / 2).tolist()
    return middles
