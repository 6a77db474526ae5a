"""The benchmark's pictures: throughput, latency, arrivals on a schedule, and where the time goes."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.ratios import ALONE
from benchmarks.report import BenchReport, Row, Stages

COLOURS = {
    "unified_cold": "tab:blue",
    "separate_cold": "tab:red",
    "unified_warm": "tab:cyan",
    "separate_warm": "tab:orange",
    "unified_zipf": "tab:green",
    "unified_cold_beside_zipf": "tab:gray",
}


def plot(report: BenchReport, folder: Path) -> list[Path]:
    """Write the pictures that the report has numbers for, and return their paths."""
    closed = [row for row in report.rows if row.arrival == "closed"]
    scheduled = [row for row in report.rows if row.arrival == "open"]
    pictures: dict[str, tuple[Sequence[object], Callable[[Figure], None]]] = {
        "throughput": (closed, partial(_throughput, rows=closed)),
        "latency": (closed, partial(_latency, rows=closed)),
        "arrivals": (scheduled, partial(_arrivals, rows=scheduled)),
        "stages": (report.stages, partial(_stages, rows=report.stages)),
    }
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, (shown, draw) in pictures.items():
        if shown:
            written.append(folder / f"{name}.png")
            _write(report, written[-1], draw)
    return written


def _write(report: BenchReport, path: Path, draw: Callable[[Figure], None]) -> None:
    figure = plt.figure(figsize=(10, 4.2), layout="constrained")
    draw(figure)
    machine, shape = report.machine, report.shape
    figure.suptitle(
        f"{machine.processor}, {machine.cores} cores; {shape['layers']} layers x {shape['width']}, "
        f"{shape['max_history']} events, {shape['max_candidates']} candidates, {shape['items']:,} items, "
        f"random weights{', quick run' if report.quick else ''}",
        fontsize=9,
    )
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _throughput(figure: Figure, rows: Sequence[Row]) -> None:
    axes = figure.subplots()
    _lines(axes, rows, "qps", lambda row: row.concurrency or 0)
    axes.set(xlabel="requests in flight", ylabel="answered a second", ylim=(0, None))
    _by_concurrency(axes, rows)
    axes.legend(fontsize=8)


def _latency(figure: Figure, rows: Sequence[Row]) -> None:
    for axes, name in zip(figure.subplots(1, 2, sharey=True), ("p50_ms", "p99_ms"), strict=True):
        _lines(axes, rows, name, lambda row: row.concurrency or 0)
        axes.set(xlabel="requests in flight", title=name.removesuffix("_ms"), yscale="log")
        _by_concurrency(axes, rows)
    figure.axes[0].set_ylabel("ms")
    figure.axes[0].legend(fontsize=8)


def _arrivals(figure: Figure, rows: Sequence[Row]) -> None:
    for axes, name in zip(figure.subplots(1, 2, sharey=True), ("p50_ms", "p99_ms"), strict=True):
        _lines(axes, rows, name, lambda row: row.rate or 0.0)
        title = f"{name.removesuffix('_ms')}, from when a request was due"
        axes.set(xlabel="Poisson arrivals a second", title=title, yscale="log")
        axes.grid(alpha=0.3, which="both")
    figure.axes[0].set_ylabel("ms")
    figure.axes[0].legend(fontsize=8)


def _stages(figure: Figure, rows: Sequence[Stages]) -> None:
    """One request at a time on the left, and under load on the right, on an axis of its own."""
    alone = [one for one in rows if one.concurrency == ALONE]
    loaded = [one for one in rows if one.concurrency != ALONE]
    shown = [some for some in (alone, loaded) if some]
    for axes, some in zip(figure.subplots(1, len(shown), squeeze=False).flat, shown, strict=True):
        _bars(axes, some)
    figure.axes[0].legend(fontsize=7)


def _bars(axes: Axes, rows: Sequence[Stages]) -> None:
    """Lying bars, one for each stack and load, of parts that add up."""
    labels = [f"{one.stack}\n{one.concurrency} in flight" for one in rows]
    left = np.zeros(len(rows))
    colours = plt.get_cmap("tab20").colors  # type: ignore[attr-defined]
    # Nodes of the same place have the same role in every stack.
    for place, node in enumerate(rows[0].nodes):
        for part, shade in (("queue", 1), ("compute", 0)):
            width = np.array([getattr(one.nodes[place], f"{part}_ms") for one in rows])
            axes.barh(
                labels, width, left=left, color=colours[2 * place + shade], label=f"{node.node}: {part}"
            )
            left += width
    axes.barh(labels, [max(one.rest_ms, 0.0) for one in rows], left=left, color="dimgray", label="rest")
    axes.invert_yaxis()
    axes.tick_params(axis="y", labelsize=7)
    axes.set_xlabel("ms of one request, mean")


def _lines(axes: Axes, rows: Sequence[Row], name: str, at: Callable[[Row], float]) -> None:
    """A line for each stack, with the least and the most over rounds."""
    for stack in dict.fromkeys(row.stack for row in rows):
        own = sorted((row for row in rows if row.stack == stack), key=at)
        values = [getattr(row, name) for row in own]
        around = [
            [value - row.spreads[name].low for value, row in zip(values, own, strict=True)],
            [row.spreads[name].high - value for value, row in zip(values, own, strict=True)],
        ]
        axes.errorbar(
            [at(row) for row in own],
            values,
            yerr=np.maximum(around, 0.0),
            marker="o",
            capsize=3,
            color=COLOURS.get(stack),
            label=stack,
        )


def _by_concurrency(axes: Axes, rows: Sequence[Row]) -> None:
    levels = sorted({row.concurrency for row in rows if row.concurrency})
    axes.set_xscale("log", base=2)
    axes.set_xticks(levels, [str(level) for level in levels])
    axes.grid(alpha=0.3)
