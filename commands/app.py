"""The `unipinrec` command."""

import typer

app = typer.Typer(
    help="Prepare data, train, export and serve a unified recommender.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)
