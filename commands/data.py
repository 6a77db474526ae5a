"""`unipinrec data`: fetch, import, simulate and describe datasets."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from commands import fetch
from commands.errors import one_line_errors
from unipinrec.data.events import DatasetInfo, EventFormatError, name_from
from unipinrec.data.importer import import_events
from unipinrec.data.prepared import PreparedDatasetError, read_prepared
from unipinrec.data.summary import summarize
from unipinrec.simulator import SimulatorConfig, prepare_simulation
from unipinrec.simulator.config import WORLDS

ERRORS = (EventFormatError, PreparedDatasetError)
DEFAULT_WORLD = "feed"


def _default(field: str) -> str:
    """The default of an option by world."""
    return "default: " + ", ".join(f"{getattr(config, field):g} ({name})" for name, config in WORLDS.items())


app = typer.Typer(help="Fetch, import, simulate and describe datasets.", no_args_is_help=True)
app.add_typer(fetch.app, name="fetch")


@app.command("import")
def import_(
    events: Annotated[
        Path,
        typer.Option(help="The log (docs/data.md): parquet, CSV, TSV, JSON lines, or a folder of parts."),
    ],
    actions: Annotated[str, typer.Option(help="Action names in bit order, with commas between them.")],
    out: Annotated[Path, typer.Option(help="New folder for the prepared dataset.")],
    surfaces: Annotated[str, typer.Option(help="Surface names in order, with commas between.")] = "default",
    items: Annotated[
        Path | None, typer.Option(help="Likewise, with item_id and, optionally, title, attributes, content.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the dataset; default: from the name of OUT.")
    ] = None,
    positive_actions: Annotated[
        str | None,
        typer.Option(help="Actions that make an item worth retrieving, with commas between; default: all."),
    ] = None,
    utility_weights: Annotated[
        str | None,
        typer.Option(help="Weight of each action in a score, with commas between; default: all 1."),
    ] = None,
) -> None:
    """Check an event log and make a prepared dataset of it."""
    with one_line_errors(*ERRORS):
        names = actions.split(",")
        fields: dict[str, object] = {
            "name": name_from(out.name) if name is None else name,
            "actions": names,
            "surfaces": surfaces.split(","),
            "utility_weights": utility_weights.split(",") if utility_weights else [1.0] * len(names),
            "sampled_impressions": False,
        }
        if positive_actions:
            fields["positive_actions"] = positive_actions.split(",")
        dataset = import_events(events, items, out, DatasetInfo.model_validate(fields))
        typer.echo(f"{len(dataset.events)} events written to {out}")


@app.command("simulate")
def simulate_command(
    out: Annotated[Path, typer.Option(help="New folder for the prepared dataset.")],
    world: Annotated[
        str, typer.Option(help=f"One of {', '.join(WORLDS)} (docs/data.md). It gives what else is left out.")
    ] = DEFAULT_WORLD,
    users: Annotated[int | None, typer.Option(help=f"People; {_default('users')}.")] = None,
    items: Annotated[int | None, typer.Option(help=f"Items of the catalogue; {_default('items')}.")] = None,
    sessions: Annotated[
        float | None, typer.Option(help=f"Mean sessions of a user; {_default('sessions')}.")
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same log.")] = 0,
) -> None:
    """Make a synthetic log with known truth: slates, several actions, logged uniform exploration."""
    with one_line_errors(*ERRORS, ValueError):
        if world not in WORLDS:
            raise ValueError(f"world is {world}; allowed: {', '.join(WORLDS)}")
        given = {"users": users, "items": items, "sessions": sessions, "seed": seed}
        chosen = {name: value for name, value in given.items() if value is not None}
        config = SimulatorConfig.model_validate(WORLDS[world].model_dump() | chosen)
        prepare_simulation(out, config, typer.echo)


@app.command()
def describe(folder: Annotated[Path, typer.Argument(help="Folder of a prepared dataset.")]) -> None:
    """Show what a prepared dataset contains."""
    with one_line_errors(*ERRORS):
        dataset = read_prepared(folder)
    table = Table("what", "value", title=dataset.info.name)
    table.add_row("positive actions", " ".join(dataset.info.positive_actions))
    for what, value in summarize(dataset).items():
        table.add_row(what, f"{value:,}" if isinstance(value, int) else f"{value:.4f}")
    Console().print(table)
