"""Cost against each thing that grows, one plot for each."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from benchmarks.growth import Cost, GrowthReport


def plot(report: GrowthReport, path: Path) -> None:
    """Write the picture: milliseconds above, MiB below."""
    axes_of = {
        "events of a history": report.history,
        "candidates": report.candidates,
        "requests of a batch": report.batch,
        "cached users": report.cached_users,
        "items of the catalogue": report.catalogue,
    }
    figure, axes = plt.subplots(2, len(axes_of), figsize=(3.3 * len(axes_of), 6), layout="constrained")
    for column, (name, costs) in enumerate(axes_of.items()):
        _draw(axes[0, column], costs, "ms", "ms of one request" if name == "requests of a batch" else "ms")
        _draw(axes[1, column], costs, "mib", "MiB")
        axes[1, column].set_xlabel(name)
    figure.suptitle(f"{report.preset}, {report.precision}, one thread, {report.machine.processor}")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def _draw(axis: Axes, costs: Sequence[Cost], field: str, label: str) -> None:
    sizes = sorted({cost.size for cost in costs})
    names = {name: None for cost in costs for name in getattr(cost, field)}
    if not names:
        axis.set_axis_off()
        return
    for name in names:
        points = [(cost.size, getattr(cost, field)[name]) for cost in costs if name in getattr(cost, field)]
        axis.plot(*zip(*points, strict=True), marker="o", label=name)
    axis.set(xscale="log", yscale="log", ylabel=label)
    axis.set_xticks(sizes[:: max(1, len(sizes) // 4)], [f"{s:,}" for s in sizes[:: max(1, len(sizes) // 4)]])
    axis.minorticks_off()
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7)
