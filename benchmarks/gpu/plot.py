"""A picture of the table: milliseconds of every ranking forward, and the speed-ups of both cards."""

from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from benchmarks.gpu.report import Forward, GpuReport


def plot(report: GpuReport, path: Path) -> bool:
    """Write the picture, unless no forward was timed; returns whether it was written."""
    timed = [one for one in report.table.forwards if one.timing] if report.table else []
    if not timed:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    figure, (times, gains) = plt.subplots(1, 2, figsize=(13, 3.8), layout="constrained", sharey=True)
    _times(times, timed)
    _gains(gains, timed)
    times.invert_yaxis()
    shape = report.table.shape if report.table else {}
    figure.suptitle(
        f"{report.card.name}, driver {report.card.driver}, torch {report.card.torch}: one ranking forward, "
        f"batch {shape.get('batch')}, {shape.get('positions')} positions, {shape.get('candidates')} "
        f"candidates, {shape.get('layers')} layers x {shape.get('width')}, random weights",
        fontsize=9,
    )
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return True


def _times(axes: Axes, timed: list[Forward]) -> None:
    for one in timed:
        if one.timing:
            median = one.timing.median_ms
            around = [[median - one.timing.p10_ms], [one.timing.p90_ms - median]]
            bar = axes.barh(f"{one.title}\n{one.precision}", median, xerr=around, capsize=3, color="tab:blue")
            axes.bar_label(bar, fmt="%.2f", padding=4, fontsize=8)
    axes.set_xlabel("ms, median with 10th and 90th percentile")
    axes.tick_params(axis="y", labelsize=8)


def _gains(axes: Axes, timed: list[Forward]) -> None:
    labels = [f"{one.title}\n{one.precision}" for one in timed]
    axes.barh(labels, [one.speed_up or 0.0 for one in timed], color="tab:cyan", label="this card")
    paper = [
        (label, one.paper_speed_up) for label, one in zip(labels, timed, strict=True) if one.paper_speed_up
    ]
    axes.plot([gain for _, gain in paper], [label for label, _ in paper], "k|", markersize=18, label="paper")
    axes.set_xlabel("times as fast as the first")
    axes.legend(fontsize=8)
