"""`unipinrec bench scale-plan`: the tables of docs/scale.md, from committed results."""

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.scale_plan import RESULTS, PlanError, filled, picture, plan, tables
from commands.errors import one_line_errors


def scale_plan_command(
    results: Annotated[Path, typer.Option(help="Folder of reports.")] = RESULTS,
    page: Annotated[Path, typer.Option(help="Page whose tables are made anew.")] = Path("docs/scale.md"),
) -> None:
    """Compute what the committed results say of 500 million users, and write it into the page."""
    with one_line_errors(PlanError):
        values = plan(results)
        page.write_text(filled(page.read_text(), tables(values)))
        drawn = page.parent / "results" / "scale.png"
        drawn.parent.mkdir(exist_ok=True)
        picture(values).savefig(drawn, dpi=110)
    typer.echo(f"{page} and {drawn} written")
