"""`unipinrec bench ann`: recall and cost of item indexes."""

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.ann import BUDGET, LEFT_OUT, Device, measure
from benchmarks.ann import plot as plot_ann
from benchmarks.sweep.sweep import tables
from benchmarks.synthetic_vectors import LEARNED_NOISE
from commands.bench.ending import OUT, finish
from commands.errors import NO_GPU, one_line_errors
from ensemble.gpu_presence import NoGpuError
from ensemble.index.cuda.item_search import require_gpu as require_faiss_gpu
from loadtest.render import narrator, plain_console

SMALLEST = BUDGET + LEFT_OUT


def ann_command(
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
    out: Annotated[Path, typer.Option(help="Folder of the report ann.json and the picture ann.png.")] = OUT,
) -> None:
    """Measure recall, latency, build time and size of every kind of item index on synthetic vectors."""
    if device == "cuda":
        with one_line_errors(NoGpuError, code=NO_GPU):
            require_faiss_gpu("device")
    with one_line_errors(ValueError):
        report = measure(_numbers(sizes), narrator(plain_console()), noise, device)
    plot_ann(report, out / "ann.png")
    finish(out / "ann.json", report, tables(report))


def _numbers(sizes: str) -> list[int]:
    for size in sizes.split(","):
        if not size.isdecimal() or int(size) < SMALLEST:
            raise ValueError(f"sizes is {sizes}; allowed: whole numbers from {SMALLEST}, with commas between")
    return [int(size) for size in sizes.split(",")]
