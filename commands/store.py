"""`unipinrec store`: fills and keeps the store of histories that servers read."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from commands.errors import one_line_errors
from commands.progress import progress_bar
from ensemble.settings import ServingSettings
from ensemble.stores.compaction import compact as compact_store
from ensemble.stores.dataset_histories import dataset_histories
from ensemble.stores.history_store import (
    EVENT,
    Events,
    InvalidEventsError,
    StoreError,
    check_events,
    event_key,
    exported_id,
)
from ensemble.stores.lmdb_store import LmdbHistoryStore
from loadtest.histories import HistoriesError, UserHistory, numbered_histories, write_histories
from unipinrec.data.interactions import InteractionDataset
from unipinrec.data.prepared import PreparedDatasetError

ANY_BYTES = "surrogateescape"
"""How a user id that is no UTF-8 becomes text and back."""

app = typer.Typer(
    help="Fill and keep the store of users' histories, by default build/stores/histories or "
    "UNIPINREC_HISTORIES. A server reads it at every request: what is appended counts at the user's next "
    "one, and what the server has cached of the user stays.",
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
        loaded = InteractionDataset.load(dataset)
        with _open(histories, writable=True) as store, progress_bar() as progress:
            task = progress.add_task("users", total=len(loaded.user_ids_U))

            def tracked() -> Iterator[tuple[bytes, Events]]:
                progress.reset(task)
                yield from progress.track(dataset_histories(loaded, skip_last, impressions), task_id=task)

            written = store.replace_all(tracked)
    typer.echo(f"{written.events:,} events of {written.histories:,} users stored in {store.path}")


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
        lines = list(_checked(Path("/dev/stdin" if file == "-" else file)))
        with _open(histories, writable=True) as store:
            appended = store.append_all(lines)
    given = [len(events) for _, events in lines]
    stored, duplicates = (sum(count) for count in (zip(*appended, strict=True) if appended else ((), ())))
    left_out = {"duplicates": duplicates, "too old to be kept": sum(given) - stored - duplicates}
    told = "".join(f", {count:,} {what}" for what, count in left_out.items() if count)
    typer.echo(f"{stored:,} events of {np.count_nonzero(given):,} users appended to {store.path}{told}")


@app.command()
def export(
    file: Annotated[str, typer.Argument(help="File for a line of JSON of each user; - writes stdout.")],
    histories: Histories = None,
    user: Annotated[list[str] | None, typer.Option(help="Only this user; repeatable.")] = None,
) -> None:
    """Write histories as `append` reads them. A server goes on meanwhile."""
    with one_line_errors(StoreError), _open(histories) as store:
        users = (
            UserHistory(
                user_id.decode(errors=ANY_BYTES),
                *(events[name].astype(np.int64) for name in EVENT.names or ()),
                event_ids=[exported_id(key) for key in events["event_id"].tolist()],
            )
            for user_id, events in store.histories()
        )
        chosen = (found for found in users if user is None or found.user_id in user)
        write_histories(Path("/dev/stdout" if file == "-" else file), chosen)


@app.command()
def compact(histories: Histories = None) -> None:
    """Rewrite the store's file without what was deleted or replaced; one of an older layout becomes one of
    today's. Stop the servers before."""
    with one_line_errors(StoreError):
        path = _path(histories)
        sizes = compact_store(path, ServingSettings().max_stored_events)
    typer.echo(f"{path} has {sizes.after:,} bytes; before: {sizes.before:,}")


@app.command("delete-user")
def delete_user(
    user: Annotated[str, typer.Argument(help="Id of the user to forget.")], histories: Histories = None
) -> None:
    """Remove a user's events, from the user's next request on. Until `compact`, the file may still hold bytes
    of them that nobody reads."""
    with one_line_errors(StoreError), _open(histories, writable=True) as store:
        count = store.delete(user.encode(errors=ANY_BYTES))
    typer.echo(f"{count:,} events of {user} deleted from {store.path}")


def _checked(file: Path) -> Iterator[tuple[bytes, Events]]:
    for number, user in numbered_histories(file):
        columns = (user.item_id_N, user.actions_N, user.timestamp_N, user.surface_N)
        try:
            user_id = user.user_id.encode(errors=ANY_BYTES)
            keys = [event_key(event_id.encode()) for event_id in user.event_ids] or [0] * len(user)
            key_N = np.array(keys, np.uint64)
            events = np.zeros(
                len(user), [*((name, "<i8") for name in EVENT.names or ()), ("event_id", "<u8")]
            )
            for name, column in zip(events.dtype.names or (), (*columns, key_N), strict=True):
                events[name] = column
            yield user_id, check_events(user_id, events)
        except (InvalidEventsError, UnicodeEncodeError) as error:
            raise HistoriesError(f"{file}, line {number}: {error}") from None


def _open(histories: Path | None, *, writable: bool = False) -> LmdbHistoryStore:
    most = ServingSettings().max_stored_events
    return LmdbHistoryStore(_path(histories), writable=writable, most_events=most)


def _path(histories: Path | None) -> Path:
    return ServingSettings().histories if histories is None else histories


if __name__ == "__main__":
    # Without the other commands, and so without what only training needs.
    app()
