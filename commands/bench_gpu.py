"""`unipinrec bench-gpu`: what the GPU path brings, measured on one card."""

import signal
import time
from pathlib import Path
from typing import Annotated, Literal

import torch
import typer
from rich.console import Console

from benchmarks.gpu.run import GpuBench, Part
from benchmarks.gpu.shape import SHAPES
from benchmarks.gpu.show import plot, show
from benchmarks.load import FillError
from benchmarks.measures import NoAnswerError
from commands.errors import NO_GPU, one_line_errors
from ensemble.gpu_presence import NoGpuError, require_gpu
from ensemble.server.server_error import ServerError
from ensemble.settings import ServingSettings

LOG_WIDTH = 170
"""Columns where no terminal says how many it has."""


def bench_gpu(
    only: Annotated[
        list[Part] | None,
        typer.Option(help="A part alone; may be given several times. Left out, all of them in this order."),
    ] = None,
    shape: Annotated[
        Literal["paper", "tiny"], typer.Option(help="Sizes; tiny is a dry run of a minute or two.")
    ] = "paper",
    items: Annotated[int, typer.Option(min=2_000, help="Items of the served catalogue.")] = 100_000,
    requests: Annotated[
        int, typer.Option(min=1, help="Random requests whose answers are compared.")
    ] = 100_000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the random requests.")] = 1,
    out: Annotated[
        Path, typer.Option(help="Folder of bundles, logs, the report gpu.json and the picture gpu.png.")
    ] = Path("build/bench"),
) -> None:
    """Measure ranking forwards as in UniPinRec's Table 2, then unified against separate through Triton.

    The parts add themselves to one report, so that each can be a command of its own of up to ten minutes.
    Exit code 3 without a GPU; 1 if an answer differs by more than bfloat16 explains.
    """
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = LOG_WIDTH
    with one_line_errors(NoGpuError, code=NO_GPU):
        require_gpu("bench-gpu measures on a GPU", "")
    # What it imports wants the CUDA runtime's bindings.
    from ensemble.executors.cuda.cuda_engine import set_up_gpu

    # A SIGTERM ends the run in order too, with the server stopped and its shared memory removed.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    began = time.monotonic()

    def tell(what: str) -> None:
        console.print(f"{time.monotonic() - began:6.0f} s  {what}")

    parts = [part for part in Part if not only or part in only]
    with one_line_errors(ServerError, FillError, NoAnswerError):
        allocator, options = set_up_gpu(ServingSettings(), torch.cuda.current_device())
        bench = GpuBench(
            allocator=allocator,
            options=options,
            shape=SHAPES[shape],
            items=items,
            requests=requests,
            seed=seed,
            out=out.absolute(),
            tell=tell,
        )
        report = bench.run(parts)
    plot(report, bench.out / "gpu.png")
    show(console, report)
    console.print(f"report written to {bench.out / 'gpu.json'}")
    if Part.ANSWERS in parts and report["answers"]["differences"]:
        typer.secho("\n".join(report["answers"]["differences"][:10]), fg="red", err=True)
        raise typer.Exit(1)
