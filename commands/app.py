"""The `unipinrec` command."""

import typer

from commands import data

app = typer.Typer(
    help="Prepare data, train, export and serve a unified recommender.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)
app.add_typer(data.app, name="data")
