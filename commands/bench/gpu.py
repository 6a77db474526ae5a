"""`unipinrec bench gpu`: what a GPU computes and serves."""

from pathlib import Path
from typing import Annotated, Literal

import torch
import typer

from benchmarks.gpu.run import GpuBench, Part
from benchmarks.gpu.shape import SHAPES
from benchmarks.gpu.show import plot as plot_gpu
from benchmarks.gpu.show import show as show_gpu
from commands.bench.ending import OUT, SERVED, end_in_order, fail
from commands.errors import NO_GPU, one_line_errors
from ensemble.gpu_presence import NoGpuError, require_gpu
from ensemble.settings import ServingSettings
from loadtest.render import narrator, plain_console


def gpu_command(
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
    ] = OUT,
) -> None:
    """Measure ranking forwards as in UniPinRec's Table 2, then unified against separate through Triton.

    The parts add themselves to one report, so that each can be a command of its own of up to ten minutes.
    Exit code 3 without a GPU; 1 if an answer differs by more than bfloat16 explains.
    """
    with one_line_errors(NoGpuError, code=NO_GPU):
        require_gpu("bench gpu measures on a GPU", "")
    # What it imports wants the CUDA runtime's bindings.
    from ensemble.executors.cuda.cuda_engine import set_up_gpu

    end_in_order()
    console = plain_console()
    parts = [part for part in Part if not only or part in only]
    with one_line_errors(*SERVED):
        allocator, options = set_up_gpu(ServingSettings(), torch.cuda.current_device())
        bench = GpuBench(
            allocator=allocator,
            options=options,
            shape=SHAPES[shape],
            items=items,
            requests=requests,
            seed=seed,
            out=out.absolute(),
            tell=narrator(console),
        )
        report = bench.run(parts)
    plot_gpu(report, bench.out / "gpu.png")
    show_gpu(console, report)
    console.print(f"report written to {bench.out / 'gpu.json'}")
    if Part.ANSWERS in parts and report["answers"]["differences"]:
        fail("answers differ from PyTorch on the GPU:", report["answers"]["differences"])
