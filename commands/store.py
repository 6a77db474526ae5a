"""`unipinrec store`: fills and keeps the store of histories that servers read."""

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
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
    Appended,
    Events,
    HistoryStore,
    InvalidEventsError,
    StoreError,
    check_events,
    event_key,
    exported_id,
    in_steps,
)
from ensemble.stores.lmdb_store import LmdbHistoryStore
from ensemble.stores.stores import open_histories, writable_histories
from loadtest.histories import HistoriesError, UserHistory, numbered_histories, write_histories
from unipinrec.data.interactions import InteractionDataset
from unipinrec.data.prepared import PreparedDatasetError

ANY_BYTES = "surrogateescape"
"""How a user id that is no UTF-8 becomes text and back."""

app = typer.Typer(
    help="Fill and keep the store of users' histories, by default build/stores/histories or "
    "UNIPINREC_HISTORIES, or the server of Redis at UNIPINREC_HISTORIES_URL. A server reads it at every "
    "request: what is appended counts at the user's next one, and what the server has cached of the user "
    "stays.",
    no_args_is_help=True,
)

Histories = Annotated[
    Path | None,
    typer.Option(help="Folder of the store; default: UNIPINREC_HISTORIES_URL or UNIPINREC_HISTORIES."),
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
    replace: Annotated[
        bool, typer.Option("--replace", help="Drop all that the store holds, in the same step.")
    ] = False,
) -> None:
    """Add the histories of a dataset to what users have, each event once. A server goes on meanwhile.

    An event of the same item, time and surface as a stored one is the same, unless one of the two is an
    impression. What was stored stays as it is, and the latest events of all are kept. Callers who append
    meanwhile wait for some users, not for all; an import that was interrupted can be run again.
    """
    with one_line_errors(PreparedDatasetError, StoreError, InvalidEventsError):
        loaded = InteractionDataset.load(dataset)
        with _open(histories, writable=True) as store, progress_bar() as progress:
            task = progress.add_task("users", total=len(loaded.user_ids_U))

            def tracked() -> Iterator[tuple[bytes, Events]]:
                progress.reset(task)
                found = dataset_histories(loaded, skip_last, impressions)
                return map(_named, progress.track(found, task_id=task))

            if replace:
                written = store.replace_all(tracked)
                told = f"{written.events:,} events of {written.histories:,} users stored in {store.address}"
            else:
                told = _told(_merge(store, tracked()), f"stored in {store.address}")
    typer.echo(told)


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
            added = Added().plus(lines, store.append_all(lines))
    typer.echo(_told(added, f"appended to {store.address}"))


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
    today's. Stop the servers before: a store in use is refused."""
    with one_line_errors(StoreError):
        settings = _settings(histories)
        if settings.histories_url is not None:
            raise StoreError(
                "UNIPINREC_HISTORIES_URL names a server, which rewrites its files itself (BGREWRITEAOF); "
                "--histories compacts a folder"
            )
        path = settings.histories
        sizes = compact_store(path, settings.max_stored_events)
    typer.echo(f"{path} has {sizes.after:,} bytes; before: {sizes.before:,}")


@app.command("delete-user")
def delete_user(
    user: Annotated[str, typer.Argument(help="Id of the user to forget.")], histories: Histories = None
) -> None:
    """Remove a user's events, from the user's next request on. Servers that read the store wipe what they
    keep of the user within a second, and for UNIPINREC_LEASE_MS what requests under way bring back. Until
    `compact`, the file may still hold bytes that nobody reads."""
    with one_line_errors(StoreError), _open(histories, writable=True) as store:
        count = store.delete(user.encode(errors=ANY_BYTES))
    typer.echo(f"{count:,} events of {user} deleted from {store.address}")


@dataclass(frozen=True, slots=True)
class Added:
    """What became of events that were given."""

    users: int = 0
    given: int = 0
    stored: int = 0
    duplicates: int = 0

    def plus(self, histories: Sequence[tuple[bytes, Events]], appended: Sequence[Appended]) -> "Added":
        """Return the same with more histories."""
        lengths = [len(events) for _, events in histories]
        return Added(
            self.users + np.count_nonzero(lengths),
            self.given + sum(lengths),
            self.stored + sum(history.stored for history in appended),
            self.duplicates + sum(history.duplicates for history in appended),
        )


def _told(added: Added, done: str) -> str:
    too_old = added.given - added.stored - added.duplicates
    left_out = {"duplicates": added.duplicates, "too old to be kept": too_old}
    rest = "".join(f", {count:,} {what}" for what, count in left_out.items() if count)
    return f"{added.stored:,} events of {added.users:,} users {done}{rest}"


def _merge(store: HistoryStore, histories: Iterator[tuple[bytes, Events]]) -> Added:
    added = Added()
    try:
        for users in in_steps(histories):
            added = added.plus(users, store.merge_all(users))
    except (StoreError, InvalidEventsError) as error:
        raise StoreError(
            f"{error}; {added.users:,} users before are stored, and may be given again"
        ) from None
    return added


def _named(history: tuple[bytes, Events]) -> tuple[bytes, Events]:
    """The history in the form that is stored. Errors name the user."""
    user_id, events = history
    try:
        return user_id, check_events(user_id, events)
    except InvalidEventsError as error:
        raise InvalidEventsError(f"user {user_id.decode(errors='replace')!r}: {error}") from None


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


@contextmanager
def _open(histories: Path | None, *, writable: bool = False) -> Iterator[HistoryStore]:
    settings = _settings(histories)
    # A folder that is not there is refused where it is to be read.
    store = (
        writable_histories(settings)
        if writable
        else open_histories(settings) or LmdbHistoryStore(settings.histories)
    )
    with closing(store):
        yield store


def _settings(histories: Path | None) -> ServingSettings:
    """The environment's, with the folder of the command line in place of whatever store it names."""
    if histories is None:
        return ServingSettings()
    return ServingSettings(histories=histories.absolute(), histories_url=None)


if __name__ == "__main__":
    # Without the other commands, and so without what only training needs.
    app()
