"""Pictures of a run: latency, throughput and errors over time; rates tried; memory.

Shapes: T points in time.
"""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from loadtest.capacity_run import CapacityRun
from loadtest.measures import PERCENTILES, percentile
from loadtest.outcomes import OK, Outcome
from loadtest.soak import MemorySample

POINTS = 60
"""Points over time at most; none stands for less than half a second."""

MIB = 2**20


def plot_load(
    path: Path, outcomes: Sequence[Outcome], *, began_s: float, measured_from_s: float, title: str
) -> None:
    """Latency percentiles above, requests and errors a second below, by when a request was due."""
    figure = _figure(title)
    above, below = figure.subplots(2, 1, sharex=True)
    _latency(above, outcomes, began_s)
    _rates(below, outcomes, began_s)
    for axes in (above, below):
        axes.axvspan(0, measured_from_s, color="lightgray", alpha=0.5, label="warm-up")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    _save(figure, path)


def plot_capacity(path: Path, runs: Sequence[CapacityRun], title: str) -> None:
    """p99 against the rate of each trial, with the limit, the found rates and the closed loop's."""
    figure = _figure(title)
    axes = figure.subplots()
    for number, run in enumerate(runs, start=1):
        colour = f"C{number - 1}"
        shown = sorted((one for one in run.trials if np.isfinite(one.p99_ms)), key=lambda one: one.rate)
        axes.plot(
            [one.rate for one in shown],
            [one.p99_ms for one in shown],
            marker="o",
            color=colour,
            label=f"run {number}: {run.rate:.4g} a second, {run.share:.0%} of the closed loop's",
        )
        axes.axvline(run.rate, color=colour, linestyle=":")
        axes.axvline(run.closed_rps, color=colour, linestyle="--")
        axes.axhline(run.p99_limit_ms, color=colour, alpha=0.4)
    axes.set(
        xlabel="requests due a second (dotted: found, dashed: closed loop)",
        ylabel="p99 in ms",
        yscale="log",
        xlim=(0, None),
    )
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8)
    _save(figure, path)


def plot_soak(
    path: Path, outcomes: Sequence[Outcome], samples: Sequence[MemorySample], *, began_s: float, title: str
) -> None:
    """Latency above, throughput, and memory below."""
    figure = _figure(title)
    latency, rates, memory = figure.subplots(3, 1, sharex=True)
    _latency(latency, outcomes, began_s)
    _rates(rates, outcomes, began_s)
    at_T = [one.at_s for one in samples]
    memory.plot(at_T, [one.rss_bytes / MIB for one in samples], label="resident, all processes")
    memory.plot(at_T, [one.shared_bytes / MIB for one in samples], label="shared memory")
    memory.set(xlabel="s", ylabel="MiB", ylim=(0, None))
    for axes in (latency, rates, memory):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    _save(figure, path)


def _latency(axes: Axes, outcomes: Sequence[Outcome], began_s: float) -> None:
    answered = [one for one in outcomes if one.status == OK]
    at = np.array([one.due_s - began_s for one in answered])
    latency = np.array([one.latency_ms for one in answered])
    edges = _edges(outcomes, began_s)
    inside = [latency[(at >= low) & (at < high)] for low, high in pairwise(edges)]
    for name, percent in PERCENTILES.items():
        values = [percentile(some, percent) if len(some) else np.nan for some in inside]
        axes.plot(_middles(edges), values, label=name.removesuffix("_ms").replace("_", "."))
    axes.set(ylabel="ms from when due", yscale="log")


def _rates(axes: Axes, outcomes: Sequence[Outcome], began_s: float) -> None:
    edges = _edges(outcomes, began_s)
    seconds = edges[1] - edges[0]
    answered = [one.due_s + one.latency_ms / 1e3 - began_s for one in outcomes if one.status == OK]
    series = {
        "due": [one.due_s - began_s for one in outcomes],
        "answered": answered,
        "errors": [one.due_s - began_s for one in outcomes if one.status != OK],
    }
    for (name, at), colour in zip(series.items(), ("tab:gray", "tab:blue", "tab:red"), strict=True):
        axes.plot(_middles(edges), np.histogram(at, edges)[0] / seconds, color=colour, label=name)
    axes.set(xlabel="s", ylabel="requests a second", ylim=(0, None))


def _edges(outcomes: Sequence[Outcome], began_s: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    last = max((one.due_s - began_s for one in outcomes), default=1.0)
    return np.linspace(0.0, max(last, 0.5), int(np.clip(last / 0.5, 1, POINTS)) + 1)


def _middles(
    edges: np.ndarray[tuple[int], np.dtype[np.float64]],
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return (edges[:-1] + edges[1:]) / 2


def _figure(title: str) -> Figure:
    figure = Figure(figsize=(9, 6), layout="constrained")
    figure.suptitle(title, fontsize=9)
    return figure


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
