"""`unipinrec deploy`, `rollback` and `status`: the bundles of a server that runs on this machine."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from commands.errors import one_line_errors
from ensemble.server.control_client import command, find_control
from ensemble.server.server_error import ServerError
from ensemble.settings import ServingSettings

app = typer.Typer(no_args_is_help=True)

RuntimeDir = Annotated[
    Path | None,
    typer.Option(help="Runtime folder of the server, where several run; default: UNIPINREC_RUNTIME_DIR."),
]


@app.command()
def deploy(
    bundle: Annotated[Path, typer.Argument(help="Bundle to serve from here on.")],
    free_old: Annotated[
        bool, typer.Option("--free-old", help="Unload the bundle before; there is no rollback then.")
    ] = False,
    runtime_dir: RuntimeDir = None,
) -> None:
    """Load a bundle beside the one that serves, try it, and turn callers to it. No request fails.

    Exit code 2 if the bundle is refused; the one before goes on serving.
    """
    _run("deploy", {"bundle": str(bundle.absolute()), "free_old": free_old}, runtime_dir)


@app.command()
def rollback(
    free_old: Annotated[
        bool, typer.Option("--free-old", help="Do not turn back, but unload the bundle that stands by.")
    ] = False,
    runtime_dir: RuntimeDir = None,
) -> None:
    """Turn callers back to the bundle before, at once; once more turns them forth again."""
    _run("free" if free_old else "rollback", {}, runtime_dir)


@app.command()
def status(runtime_dir: RuntimeDir = None) -> None:
    """Tell which bundle serves, which stands by, since when, and what memory they take."""
    _run("status", None, runtime_dir)


def _run(name: str, body: dict[str, Any] | None, runtime_dir: Path | None) -> None:
    console = Console(soft_wrap=True, markup=False, highlight=False)
    with one_line_errors(ServerError):
        base = runtime_dir.absolute() if runtime_dir else ServingSettings().runtime_dir
        found = command(find_control(base), name, body, console.print)
    for role in ("serving", "standby"):
        console.print(_told(role, found[role]))


def _told(role: str, nodes: dict[str, Any] | None) -> str:
    if nodes is None:
        return f"{role:8} none"
    return (
        f"{role:8} {nodes['bundle']}  {', '.join(nodes['ensembles'])}  since {nodes['since']}  "
        f"{nodes['memory_mib']} MiB  {nodes['folder']}"
    )


if __name__ == "__main__":
    # Without the other commands, and so without what only training needs.
    app()
