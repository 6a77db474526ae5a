"""What one run found, as tables on the console and a picture."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from rich.console import Console
from rich.table import Table

Lines = Iterable[Mapping[str, Any]]

FORWARD = (
    "name", "precision", "mode", "median_ms", "p10_ms", "p90_ms", "speed_up", "paper_speed_up", "largest",
    "mean", "same_top", "matrix_share", "copy_share", "working_bytes", "failure",
)  # fmt: skip
ROW = ("stack", "concurrency", "rate", "qps", "p50_ms", "p90_ms", "p99_ms", "errors", "hit_share")
IDLE = ("kind", "wall_ms", "profiled_wall_ms", "busy_ms", "outside_share", "profiled_outside_share")
RATIO = ("name", "value", "low", "high")
"""Columns of tables that leave something out."""


def show(console: Console, report: Mapping[str, Any]) -> None:
    """Print every part that was run."""
    table, served, arrivals = (report.get(part, {}) for part in ("table", "served", "arrivals"))
    passing, ratios = served.get("passing", {}), served.get("ratios", {})
    _print(console, f"card, shape {report['shape']}", [report["card"]])
    _print(console, "the card's own rates, a second", [table.get("rates", {})])
    _print(console, "forwards of one batch", table.get("forwards", ()), FORWARD)
    for idle in report.get("idle", ()):
        _print(console, "a batch of encode, generate and score in one process", [idle], IDLE)
        _print(console, f"what ran in {idle['kind']} batches", idle["kernels"])
    _print(console, "through Triton", served.get("rows", ()), ROW)
    _print(
        console, "unified over separate", [{"name": name} | ratio for name, ratio in ratios.items()], RATIO
    )
    _print(console, "from node to node", passing.get("tensors", ()))
    _print(console, "from node to node, all together", [_numbers(passing)])
    _print(console, "arrivals on a schedule", arrivals.get("rows", ()), ROW)
    _print(console, "random requests", [_numbers(report.get("answers", {}))])


def plot(report: Mapping[str, Any], path: Path) -> bool:
    """Draw the milliseconds of every forward, unless none was timed; return whether it was drawn."""
    timed = [line for line in report.get("table", {}).get("forwards", ()) if "median_ms" in line]
    if not timed:
        return False
    figure, axes = plt.subplots(figsize=(10, 5), layout="constrained")
    median = [line["median_ms"] for line in timed]
    around = [[abs(line[end] - line["median_ms"]) for line in timed] for end in ("p10_ms", "p90_ms")]
    names = [f"{line['name']}\n{line['precision']}, {line['mode']}" for line in timed]
    gains = ("speed_up", "paper_speed_up")
    labels = [" / paper ".join(f"{line[gain]:.2f}x" for gain in gains if gain in line) for line in timed]
    axes.bar_label(axes.barh(names, median, xerr=around, capsize=3), labels, padding=4, fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.3)
    axes.tick_params(axis="y", labelsize=7)
    axes.set_xlabel("ms, median with 10th and 90th percentile, and speed-up over the first prefill")
    card = report["card"]
    axes.set_title(
        f"{card['name']}, torch {card['torch']}, shape {report['shape']}, random weights", fontsize=9
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return True


def _print(console: Console, title: str, lines: Lines, columns: Sequence[str] = ()) -> None:
    """A table of lines, of these columns or all; a column that no line has is left out."""
    lines = list(lines)
    names = dict.fromkeys(columns or [name for line in lines for name in line])
    shown = [name for name in names if any(line.get(name) is not None for line in lines)]
    if shown:
        table = Table(title=title)
        for name in shown:
            is_text = isinstance(next(line[name] for line in lines if line.get(name) is not None), str)
            table.add_column(name, justify="left" if is_text else "right")
        for line in lines:
            table.add_row(*(_cell(name, line.get(name)) for name in shown))
        console.print(table)


def _cell(name: str, value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.1%}" if name.endswith(("share", "same_top")) else f"{value:.4g}"
    return str(value)


def _numbers(found: Mapping[str, Any]) -> dict[str, Any]:
    """What fits into one line."""
    return {name: value for name, value in found.items() if not isinstance(value, list)}
