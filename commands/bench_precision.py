"""`unipinrec bench-precision`: what fewer bits cost in quality."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.precision import measure_precision
from commands.errors import one_line_errors
from export.bundle_writer import DatasetMismatchError
from unipinrec.data.interactions import InteractionDataset
from unipinrec.data.prepared import PreparedDatasetError
from unipinrec.training.checkpoint import latest_checkpoint


def bench_precision(
    training: Annotated[Path, typer.Option(help="Folder that `unipinrec train` wrote.")] = Path(
        "build/checkpoints/demo"
    ),
    dataset: Annotated[Path, typer.Option(help="Folder of the prepared dataset it was trained on.")] = Path(
        "build/data/movielens"
    ),
    users: Annotated[int, typer.Option(min=2, help="Users with a held-out event, at most.")] = 1_000_000,
    out: Annotated[Path, typer.Option(help="Folder of the report precision.json.")] = Path("build/bench"),
) -> None:
    """Measure held-out quality and agreement of bfloat16 and 8-bit floating point beside float32."""
    console = Console(highlight=False, soft_wrap=True)
    with one_line_errors(PreparedDatasetError, DatasetMismatchError, ValueError):
        checkpoint = latest_checkpoint(training)
        if checkpoint is None:
            raise FileNotFoundError(
                f"--training is {training}, which holds no checkpoint; run `unipinrec train`"
            )
        report = measure_precision(checkpoint, InteractionDataset.load(dataset), users, console.print)
    report.write(out / "precision.json")
    console.print(f"report written to {out / 'precision.json'}")
