"""Recall against latency of every kind of item index, one plot for each size of catalogue."""

from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter

from benchmarks.ann import AnnReport, Measured

MARKERS = {"flat": "s", "hnsw": "o", "ivf_hnsw": "^", "sq8": "D", "ivf": "v", "cagra": "P"}


def plot(report: AnnReport, path: Path) -> None:
    """Write the picture; what is served by default is filled, other settings are hollow."""
    sizes = sorted({one.items for one in report.measured})
    figure, axes = plt.subplots(
        1, len(sizes), figsize=(3.4 * len(sizes), 3.4), layout="constrained", squeeze=False
    )
    for axis, items in zip(axes.flat, sizes, strict=True):
        for one in report.measured:
            if one.items == items:
                _draw(axis, one)
        axis.set(title=f"{items:,} items", xlabel="ms for one query, one thread", xscale="log")
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.grid(alpha=0.3)
    axes[0, 0].set_ylabel("recall@100")
    axes[0, 0].legend(fontsize=8)
    figure.suptitle(f"synthetic vectors x {report.width}, noise {report.noise}, {report.where}", fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _draw(axis: Axes, one: Measured) -> None:
    milliseconds = [point.single.median_ms for point in one.points]
    recall = [point.recall_at_100 for point in one.points]
    marker = MARKERS[one.kind]
    (line,) = axis.plot(milliseconds, recall, marker=marker, fillstyle="none", label=one.name)
    axis.plot(one.served.single.median_ms, one.served.recall_at_100, marker=marker, color=line.get_color())
