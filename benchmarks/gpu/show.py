"""What one run found, as tables on the console and a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from rich.console import Console
from rich.table import Table

FORWARD = (
    "name", "precision", "mode", "median_ms", "p10_ms", "p90_ms", "speed_up", "largest", "mean", "same_top",
    "matrix_share", "copy_share", "working_bytes", "failure",
)  # fmt: skip
ROW = ("stack", "concurrency", "rate", "qps", "p50_ms", "p90_ms", "p99_ms", "errors", "hit_share")
ANSWERS = (
    "requests", "concurrency", "tolerance", "different", "largest_difference", "mean_difference", "failed",
    "kv_source",
)  # fmt: skip
"""Columns of the tables that leave something out."""


def show(console: Console, report: Mapping[str, Any]) -> None:
    """Print every part that was run."""
    table, served, arrivals = (report.get(part, {}) for part in ("table", "served", "arrivals"))
    passing, ratios = served.get("passing", {}), served.get("ratios", {}).items()
    _print(console, f"card, shape {report['shape']}", [report["card"]])
    _print(console, "the card's own rates, a second", [table.get("rates", {})])
    _print(console, "forwards of one batch", table.get("forwards", ()), FORWARD)
    _print(console, "batches of encode, generate and score in one process", report.get("idle", ()))
    for idle in report.get("idle", ()):
        _print(console, f"what ran in {idle['kind']} batches", idle["kernels"])
    _print(console, "through Triton", served.get("rows", ()), ROW)
    _print(console, "unified over separate", [{"name": name} | ratio for name, ratio in ratios])
    _print(console, "from node to node", [passing])
    _print(console, "from node to node", passing.get("tensors", ()))
    _print(console, "arrivals on a schedule", arrivals.get("rows", ()), ROW)
    _print(console, "random requests", [report.get("answers", {})], ANSWERS)


def plot(report: Mapping[str, Any], path: Path) -> bool:
    """Draw the milliseconds of every forward, unless none was timed; return whether it was drawn."""
    timed = [line for line in report.get("table", {}).get("forwards", ()) if "median_ms" in line]
    if not timed:
        return False
    figure, axes = plt.subplots(figsize=(10, 5), layout="constrained")
    median = [line["median_ms"] for line in timed]
    around = [[abs(line[end] - line["median_ms"]) for line in timed] for end in ("p10_ms", "p90_ms")]
    names = [f"{line['name']}\n{line['precision']}, {line['mode']}" for line in timed]
    labels = [f"{line['speed_up']:.2f}x" if "speed_up" in line else "" for line in timed]
    axes.bar_label(axes.barh(names, median, xerr=around, capsize=3), labels, padding=4, fontsize=8)
    axes.invert_yaxis()
    axes.tick_params(axis="y", labelsize=7)
    axes.set_xlabel("ms, median with 10th and 90th percentile, and speed-up over the first prefill")
    axes.set_title(f"{report['card']['card']}, shape {report['shape']}, random weights", fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return True


def _print(
    console: Console, title: str, lines: Sequence[Mapping[str, Any]], columns: Sequence[str] = ()
) -> None:
    """A table of lines: these columns, or what the first line has in single values."""
    first = lines[0] if lines else {}
    columns = columns or [name for name, value in first.items() if not isinstance(value, list | dict)]
    if first:
        table = Table(*columns, title=title)
        for line in lines:
            table.add_row(*(_cell(line.get(name)) for name in columns))
        console.print(table)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else str(value)
