"""`unipinrec data fetch`: public datasets, from local files or from where they are published."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from commands.errors import one_line_errors
from unipinrec.data.adapters.amazon import downloads, prepare_amazon
from unipinrec.data.adapters.ebnerd import SMALL as EBNERD_SMALL
from unipinrec.data.adapters.ebnerd import prepare_ebnerd
from unipinrec.data.adapters.kuairand import PURE, prepare_kuairand
from unipinrec.data.adapters.mind import SMALL as MIND_SMALL
from unipinrec.data.adapters.mind import prepare_mind
from unipinrec.data.adapters.movielens import SMALL as MOVIELENS_100K
from unipinrec.data.adapters.movielens import prepare_movielens
from unipinrec.data.adapters.sources import Download, source_files
from unipinrec.data.download import DownloadError, Report
from unipinrec.data.events import EventFormatError
from unipinrec.data.movielens import MovieLensError, fetch_movielens
from unipinrec.data.prepared import PreparedDatasetError

ERRORS = (DownloadError, EventFormatError, MovieLensError, PreparedDatasetError)

Out = Annotated[Path, typer.Option(help="New folder for the prepared dataset.")]
Source = Annotated[
    Path | None,
    typer.Option("--path", help="Local file, archive or folder; without it, files are downloaded."),
]

Category = Literal["Beauty", "Sports_and_Outdoors", "Toys_and_Games"]
"""Product categories of Amazon whose sequences S3-Rec publishes."""

app = typer.Typer(help="Fetch a public dataset.", no_args_is_help=True)


@app.command()
def movielens(
    path: Source = None,
    out: Annotated[Path, typer.Option(help="Folder of the prepared dataset.")] = Path("build/data/movielens"),
) -> None:
    """MovieLens 100K, from GroupLens or else from the recbole wheel; verifies what is already there. With
    --path, any release of MovieLens."""
    if path is not None:
        _fetch(path, out, (MOVIELENS_100K,), prepare_movielens)
        return
    console = Console(highlight=False, soft_wrap=True)
    with one_line_errors(*ERRORS), console.status("MovieLens 100K"):
        fetch_movielens(out, console.print)


@app.command()
def amazon(
    path: Source = None,
    out: Out = Path("build/data/amazon"),
    category: Annotated[Category, typer.Option(help="What to download.")] = "Beauty",
) -> None:
    """Amazon purchases: S3-Rec's sequences, or reviews of 2014 (reviews_*_5.json.gz) or 2023 (*.jsonl.gz)."""
    _fetch(path, out, downloads(category), prepare_amazon)


@app.command()
def kuairand(path: Source = None, out: Out = Path("build/data/kuairand")) -> None:
    """KuaiRand's log_*.csv: many actions per shown video. Downloads KuaiRand-Pure (CC BY-SA 4.0)."""
    _fetch(path, out, (PURE,), prepare_kuairand)


@app.command()
def ebnerd(path: Source = None, out: Out = Path("build/data/ebnerd")) -> None:
    """EB-NeRD's slates and click histories. Downloads the training split of ebnerd_small."""
    _fetch(path, out, (EBNERD_SMALL,), prepare_ebnerd)


@app.command()
def mind(path: Source = None, out: Out = Path("build/data/mind")) -> None:
    """MIND's slates and click histories. Downloads the training split of MINDsmall."""
    _fetch(path, out, (MIND_SMALL,), prepare_mind)


def _fetch(
    path: Path | None, out: Path, files: Sequence[Download], prepare: Callable[[Path, Path, Report], None]
) -> None:
    console = Console(highlight=False, soft_wrap=True)
    with one_line_errors(*ERRORS), source_files(path, files, out, console.print) as source:
        prepare(source, out, console.print)
