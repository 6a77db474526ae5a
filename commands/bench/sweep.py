"""`unipinrec bench sweep`: one thing varied after another."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.sweep.appends import appends
from benchmarks.sweep.growth import growth
from benchmarks.sweep.items import item_changes
from benchmarks.sweep.nearest import nearest_events
from benchmarks.sweep.options import options
from benchmarks.sweep.precision import precision
from benchmarks.sweep.sweep import plot, tables
from commands.bench.ending import OUT, finish
from commands.errors import one_line_errors
from ensemble.server.server_error import ServerError
from ensemble.stores.history_store import StoreError
from export.bundle_writer import DatasetMismatchError
from loadtest.render import narrator, plain_console
from unipinrec.bundle import BundleError
from unipinrec.data.interactions import InteractionDataset
from unipinrec.data.prepared import PreparedDatasetError
from unipinrec.training.checkpoint import latest_checkpoint


class Subject(StrEnum):
    """What can be swept."""

    GROWTH = "growth"
    OPTIONS = "options"
    PRECISION = "precision"
    NEAREST = "nearest"
    APPENDS = "appends"
    ITEMS = "items"


def sweep_command(
    subject: Annotated[
        Subject,
        typer.Argument(
            help="growth: cost against history, candidates, batch, users and catalogue; options: other "
            "precisions, compilers and storage; precision: what fewer bits cost in held-out quality; "
            "nearest: the second ranker's search; appends: events that callers add, with a server; "
            "items: those that callers add and remove, under load."
        ),
    ],
    most: Annotated[
        int | None, typer.Option(min=1, help="Sizes of each sweep of growth and nearest, the smallest first.")
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=0.001, help="Length of calls of which the median counts.")
    ] = 0.5,
    bundle: Annotated[
        Path, typer.Option(help="Bundle for options, whose users are those of UNIPINREC_HISTORIES.")
    ] = Path("build/bundles/current"),
    training: Annotated[
        Path, typer.Option(help="Folder that `unipinrec train` wrote, for precision.")
    ] = Path("build/checkpoints/demo"),
    dataset: Annotated[Path, typer.Option(help="Prepared dataset it was trained on, for precision.")] = Path(
        "build/data/movielens"
    ),
    users: Annotated[
        int | None, typer.Option(min=2, help="Users at most: 300 for options, all for precision.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the report and its picture.")] = OUT,
) -> None:
    """Vary one thing after another, on one thread of this process, and measure everything at each value."""
    tell = narrator(plain_console())
    expected = (BundleError, StoreError, ServerError, PreparedDatasetError, DatasetMismatchError, ValueError)
    with one_line_errors(*expected):
        if subject is Subject.GROWTH:
            report = growth(seconds, most, tell)
        elif subject is Subject.NEAREST:
            report = nearest_events(seconds, most, tell)
        elif subject is Subject.APPENDS:
            report = appends(out.absolute(), seconds, tell)
        elif subject is Subject.ITEMS:
            report = item_changes(out.absolute(), seconds, tell)
        elif subject is Subject.OPTIONS:
            report = options(bundle, users or 300, seconds, tell)
        else:
            checkpoint = latest_checkpoint(training)
            if checkpoint is None:
                raise FileNotFoundError(
                    f"--training is {training}, which holds no checkpoint; run `unipinrec train`"
                )
            report = precision(checkpoint, InteractionDataset.load(dataset), users, tell)
    plot(report, out / f"{report.subject}.png")
    finish(out / f"{report.subject}.json", report, tables(report))
