"""`unipinrec store`: fills the store of histories that servers read."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from commands.errors import one_line_errors
from commands.progress import progress_bar
from ensemble.settings import ServingSettings
from ensemble.stores.dataset_histories import dataset_histories
from ensemble.stores.history_store import EVENT, Events, InvalidEventsError, StoreError, Written, check_events
from ensemble.stores.lmdb_store import LmdbHistoryStore
from loadtest.histories import HistoriesError, numbered_histories
from unipinrec.data.interactions import InteractionDataset
from unipinrec.data.prepared import PreparedDatasetError

app = typer.Typer(
    help="Fill the store of users' histories, by default build/stores/histories or UNIPINREC_HISTORIES. "
    "A server reads it at every request: what is appended counts at the user's next one, and what the server "
    "has cached of the user stays.",
    no_args_is_help=True,
)

Histories = Annotated[
    Path | None, typer.Option(help="Folder of the store; default: UNIPINREC_HISTORIES, as servers read it.")
]


@app.command("import")
def import_(
    dataset: Annotated[Path, typer.Option(help="Folder of a prepared dataset.")],
    histories: Histories = None,
    skip_last: Annotated[
        int,
        typer.Option(min=0, help="Latest events of every user to leave out, so that they can be asked for."),
    ] = 0,
    impressions: Annotated[
        int, typer.Option(min=0, help="Latest impressions without an action of every user to store too.")
    ] = 1_000,
) -> None:
    """Store the histories of a dataset in place of all that the store holds. A server goes on meanwhile."""
    with one_line_errors(PreparedDatasetError, StoreError, InvalidEventsError):
        path, loaded = _path(histories), InteractionDataset.load(dataset)
        with LmdbHistoryStore(path, writable=True) as store, progress_bar() as progress:
            task = progress.add_task("users", total=len(loaded.user_ids_U))

            def tracked() -> Iterator[tuple[bytes, Events]]:
                progress.reset(task)
                yield from progress.track(dataset_histories(loaded, skip_last, impressions), task_id=task)

            written = store.replace_all(tracked)
    _tell(written, "stored in", path)


@app.command()
def append(
    file: Annotated[
        str,
        typer.Argument(help="A line of JSON for each user (docs/data.md, Stored histories); - reads stdin."),
    ],
    histories: Histories = None,
) -> None:
    """Add events to users' histories: those of the whole file, or none where a line is wrong."""
    with one_line_errors(HistoriesError, StoreError):
        path, lines = _path(histories), list(_checked(Path("/dev/stdin" if file == "-" else file)))
        with LmdbHistoryStore(path, writable=True) as store:
            written = store.append_all(lines)
    _tell(written, "appended to", path)


def _checked(file: Path) -> Iterator[tuple[bytes, Events]]:
    for number, user in numbered_histories(file):
        columns = (user.item_id_N, user.actions_N, user.timestamp_N, user.surface_N)
        events = np.rec.fromarrays(columns, formats=["<i8"] * len(columns), names=EVENT.names)
        try:
            user_id = user.user_id.encode()
            yield user_id, check_events(user_id, events)
        except (InvalidEventsError, UnicodeEncodeError) as error:
            raise HistoriesError(f"{file}, line {number}: {error}") from None


def _path(histories: Path | None) -> Path:
    return ServingSettings().histories if histories is None else histories


def _tell(written: Written, what: str, path: Path) -> None:
    typer.echo(f"{written.events:,} events of {written.histories:,} users {what} {path}")


if __name__ == "__main__":
    # Without the other commands, and so without what only training needs.
    app()
