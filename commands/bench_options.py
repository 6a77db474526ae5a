"""`unipinrec bench-options`: what else the hot path could be."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.options import measure_options
from commands.errors import one_line_errors
from ensemble.stores.history_store import StoreError
from unipinrec.bundle import BundleError


def bench_options(
    bundle: Annotated[
        Path, typer.Option(help="Bundle that serves; its users are those of UNIPINREC_HISTORIES.")
    ] = Path("build/bundles/current"),
    users: Annotated[int, typer.Option(min=1, help="Stored users, at most.")] = 300,
    runs: Annotated[int, typer.Option(min=1, help="Calls of which the median counts.")] = 9,
    out: Annotated[Path, typer.Option(help="Folder of the report options.json.")] = Path("build/bench"),
) -> None:
    """Measure other precisions, compilers and storage of keys and values, and what they do to the scores."""
    console = Console(highlight=False, soft_wrap=True)
    with one_line_errors(BundleError, StoreError):
        report = measure_options(bundle, users, runs, console.print)
    report.write(out / "options.json")
    console.print(f"report written to {out / 'options.json'}")
