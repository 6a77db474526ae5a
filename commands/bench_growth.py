"""`unipinrec bench-growth`: how the cost of a request grows."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.growth import EVENTS, measure_growth
from benchmarks.growth_plot import plot


def bench_growth(
    most: Annotated[
        int, typer.Option(min=1, max=len(EVENTS), help="Sizes of each axis, the smallest first.")
    ] = len(EVENTS),
    runs: Annotated[int, typer.Option(min=1, help="Calls of which the median counts.")] = 9,
    out: Annotated[
        Path, typer.Option(help="Folder of the report growth.json and the picture growth.png.")
    ] = Path("build/bench"),
) -> None:
    """Measure latency and memory against history, candidates, batch, cached users and catalogue."""
    console = Console(highlight=False, soft_wrap=True)
    report = measure_growth(most, runs, console.print)
    report.write(out / "growth.json")
    plot(report, out / "growth.png")
    console.print(f"report written to {out / 'growth.json'}, picture to {out / 'growth.png'}")
