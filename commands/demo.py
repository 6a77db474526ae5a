"""`unipinrec demo`: the whole tour."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from commands.errors import one_line_errors
from demo.tour import run_tour
from ensemble.server.server_error import ServerError
from ensemble.stores.history_store import StoreError
from unipinrec.data.movielens import MovieLensError
from unipinrec.data.prepared import PreparedDatasetError
from unipinrec.training.checkpoint import CheckpointMismatchError

LOG_WIDTH = 120
"""Columns where no terminal says how many it has: wide enough for a history beside an answer."""


def demo(
    build: Annotated[Path, typer.Option(help="Folder for data, checkpoints, bundles and the report.")] = Path(
        "build"
    ),
) -> None:
    """Fetch MovieLens, train, export, store histories, serve, ask for three users, evaluate, and write
    build/demo/report.json. Histories take the place of what build/stores/histories held."""
    with one_line_errors(
        MovieLensError, PreparedDatasetError, CheckpointMismatchError, ServerError, StoreError
    ):
        console = Console(highlight=False)
        if not console.is_terminal:
            console.width = LOG_WIDTH
        run_tour(build, console)
