"""`unipinrec bench-ann`: the kinds of item index, measured."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.ann import BUDGET, LEFT_OUT, AnnReport, Device, measure
from benchmarks.ann_plot import plot
from benchmarks.synthetic_vectors import LEARNED_NOISE
from commands.errors import NO_GPU, one_line_errors
from ensemble.gpu_presence import NoGpuError
from ensemble.index.cuda.item_search import require_gpu

SMALLEST = BUDGET + LEFT_OUT


def bench_ann(
    sizes: Annotated[
        str, typer.Option(help="Catalogue sizes, with commas between.")
    ] = "10000,30000,100000,1000000",
    noise: Annotated[
        float,
        typer.Option(
            min=0.0, help="Spread of items within a cluster over that of clusters: 3 is hardly clustered."
        ),
    ] = LEARNED_NOISE,
    device: Annotated[
        Device,
        typer.Option(help="With cuda, flat, ivf and cagra on the GPU too; exit code 3 without one."),
    ] = "cpu",
    out: Annotated[Path, typer.Option(help="Folder of the report ann.json and the picture ann.png.")] = Path(
        "build/bench"
    ),
) -> None:
    """Measure recall, latency, build time and size of every kind of item index on synthetic vectors."""
    console = Console(highlight=False, soft_wrap=True)
    if device == "cuda":
        with one_line_errors(NoGpuError, code=NO_GPU):
            require_gpu("device")
    with one_line_errors(ValueError):
        report = measure(_numbers(sizes), console.print, noise, device)
    report.write(out / "ann.json")
    plot(report, out / "ann.png")
    console.print(_table(report))
    console.print(f"report written to {out / 'ann.json'}, picture to {out / 'ann.png'}")


def _numbers(sizes: str) -> list[int]:
    for size in sizes.split(","):
        if not size.isdecimal() or int(size) < SMALLEST:
            raise ValueError(f"sizes is {sizes}; allowed: whole numbers from {SMALLEST}, with commas between")
    return [int(size) for size in sizes.split(",")]


def _table(report: AnnReport) -> Table:
    table = Table(
        title=f"recall@100, milliseconds (median, p99, 16 at once), one thread, {report.where}",
        caption=f"FAISS {report.faiss}; synthetic vectors, noise {report.noise}",
    )
    columns = ("items", "index", "recall", "ms", "p99", "16", "build s", "MB")
    for column in columns:
        table.add_column(column, no_wrap=True, justify="left" if column == "index" else "right")
    for one in report.measured:
        served = one.served
        table.add_row(
            f"{one.items:,}",
            f"{one.name} {served.parameter}={served.value}" if served.parameter else one.name,
            f"{served.recall_at_100:.4f}",
            f"{served.single.median_ms:.2f}",
            f"{served.single.p99_ms:.2f}",
            f"{served.batch_of_16_ms:.2f}",
            f"{one.build_seconds:.1f}",
            "" if one.index_bytes is None else f"{one.index_bytes / 1e6:.1f}",
        )
    return table
