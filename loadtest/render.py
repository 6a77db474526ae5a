"""Tables on a terminal and pictures in files, the same for load tests and benchmarks."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

LOG_WIDTH = 160
"""Columns where no terminal says how many it has."""

DPI = 100


def plain_console() -> Console:
    """Return a console that colours no numbers, as wide as a log where no terminal says how wide it is."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = LOG_WIDTH
    return console


def narrator(console: Console) -> Callable[[str], None]:
    """Return what prints a line that begins with the seconds since now."""
    began = time.monotonic()
    return lambda text: console.print(f"{time.monotonic() - began:6.0f} s  {text}", soft_wrap=True)


def table(title: str, rows: Iterable[Mapping[str, str]], caption: str = "") -> Table:
    """Return a table of rows of texts by column, which are those of the first row; numbers on the right."""
    made = Table(title=title, caption=caption)
    for row in rows:
        if not made.columns:
            for name, text in row.items():
                made.add_column(name, justify="right" if made.columns and text[:1].isdigit() else "left")
        made.add_row(*row.values())
    return made


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of a panel."""

    x: Sequence[Any]
    y: Sequence[Any]
    ends: Sequence[tuple[float, float]] | None = None
    """Least and most at each point, between which a bar is drawn."""
    style: str = "o-"
    """As matplotlib's `fmt`, with a colour where one is wanted."""
    hollow: bool = False
    """Whether marks are not filled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One pair of axes."""

    lines: Mapping[str, Line] = field(default_factory=dict)
    """By name, as the legend has them. A panel without lines and bars stays empty."""
    bars: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Lying bars by name, each of the same parts, which add up."""
    axes: Mapping[str, Any] = field(default_factory=dict)
    """What matplotlib's `Axes.set` takes."""
    ticks: Sequence[Any] = ()
    """The only marks of the x axis; left out, matplotlib's own."""
    shaded: tuple[float, float] | None = None
    """A stretch of x that is drawn grey."""
    legend: bool = True


def draw(path: Path, title: str, panels: Sequence[Sequence[Panel]], size: tuple[float, float]) -> None:
    """Write a picture of rows of panels, `size` inches wide and high."""
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(title, fontsize=9)
    grid = figure.subplots(len(panels), len(panels[0]), squeeze=False)
    for axes_of_row, row in zip(grid, panels, strict=True):
        for axes, panel in zip(axes_of_row, row, strict=True):
            _draw(axes, panel)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI)


def _draw(axes: Any, panel: Panel) -> None:
    if not panel.lines and not panel.bars:
        axes.set_axis_off()
        return
    if panel.shaded:
        axes.axvspan(*panel.shaded, color="lightgray", alpha=0.5)
    for name, line in panel.lines.items():
        around = np.abs(np.transpose(line.ends) - np.array(line.y)) if line.ends else None
        fill = "none" if line.hollow else "full"
        axes.errorbar(
            line.x, line.y, yerr=around, fmt=line.style, fillstyle=fill, markersize=4, capsize=3, label=name
        )
    left = np.zeros(len(panel.bars))
    for number, name in enumerate(next(iter(panel.bars.values()), ())):
        widths = np.array([parts[name] for parts in panel.bars.values()])
        axes.barh(list(panel.bars), widths, left=left, label=name, color=colormaps["tab20"](number))
        left += widths
    if panel.bars:
        axes.invert_yaxis()
    axes.set(**panel.axes)
    if panel.ticks:
        axes.set_xticks(panel.ticks, [f"{tick:,}" for tick in panel.ticks])
        axes.minorticks_off()
    axes.grid(alpha=0.3)
    if panel.legend:
        axes.legend(fontsize=7)
