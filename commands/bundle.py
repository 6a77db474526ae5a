"""`unipinrec bundle`: what may be asked of a bundle without a server."""

from pathlib import Path
from typing import Annotated

import typer

from commands.errors import USAGE, fail
from ensemble.server.launcher import check_bundle
from ensemble.server.server_error import BundleRefusedError
from unipinrec.bundle import read_manifest

app = typer.Typer(help="Look at a bundle.", no_args_is_help=True)


@app.callback()
def bundle() -> None:
    """Look at a bundle."""


@app.command("check")
def check(path: Annotated[Path, typer.Argument(help="Folder of the bundle.")]) -> None:
    """Check everything in it against its manifest, as `serve` and `deploy` do before a node loads it."""
    try:
        check_bundle(path.absolute())
    except BundleRefusedError as error:
        fail(str(error), USAGE)
    typer.echo(f"{read_manifest(path).bundle_id} may be served")


if __name__ == "__main__":
    # Without the other commands, and so without what only training needs.
    app()
