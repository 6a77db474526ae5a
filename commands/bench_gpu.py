"""`unipinrec bench-gpu`: what the GPU path brings, measured on one card."""

import signal
import time
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from benchmarks.gpu.card import NoCardError, require_card
from benchmarks.gpu.plot import plot
from benchmarks.gpu.run import GpuBench, GpuPlan, Part, parts_of
from benchmarks.gpu.shape import SHAPES
from benchmarks.gpu.show import show
from benchmarks.load import FillError
from benchmarks.measures import NoAnswerError
from commands.errors import NO_GPU, one_line_errors
from ensemble.server.server_error import ServerError

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
    with one_line_errors(NoCardError, code=NO_GPU):
        device = require_card()
    # What it imports wants the CUDA runtime's bindings.
    from benchmarks.gpu.device import Cuda

    # A SIGTERM ends the run in order too, with the server stopped and its shared memory removed.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    began = time.monotonic()

    def tell(what: str) -> None:
        console.print(f"{time.monotonic() - began:6.0f} s  {what}")

    plan = GpuPlan(
        parts=parts_of(only or ()),
        shape=SHAPES[shape],
        items=items,
        requests=requests,
        seed=seed,
        out=out.absolute(),
    )
    with one_line_errors(ServerError, FillError, NoAnswerError):
        report = GpuBench(plan, Cuda(device), tell).run()
    plot(report, plan.out / "gpu.png")
    show(console, report)
    console.print(f"report written to {plan.path}")
    if Part.ANSWERS in plan.parts and report.answers and report.answers.correctness.differences:
        typer.secho("\n".join(report.answers.correctness.differences[:10]), fg="red", err=True)
        raise typer.Exit(1)
