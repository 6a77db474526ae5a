"""Rewriting a store's file, without the pages of what was deleted or replaced and in the layout of today."""

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import NamedTuple

import lmdb
import numpy as np

from ensemble.stores.event_chunks import EventChunks, Tables
from ensemble.stores.history_store import EVENT, MOST_EVENTS, Events
from ensemble.stores.lmdb_store import (
    DATA,
    LmdbHistoryStore,
    check_folder,
    failing_in_one_line,
    locked,
    open_environment,
)

FIRST_LAYOUT = b"histories-1"
"""A table with the whole history of each user, in dtype `EVENT`."""


class Sizes(NamedTuple):
    """Bytes of the file."""

    before: int
    after: int


def compact(path: Path, most_events: int = MOST_EVENTS) -> Sizes:
    """Rewrite the store at `path` with the latest `most_events` of each user. Raises `StoreError`, and leaves
    the store as it is, if there is none, or somebody has it open, who would go on with the old file. Whoever
    opens it meanwhile is refused.
    """
    check_folder(path, writable=False)
    old, rewritten = path / DATA, path.with_name(f"{path.name}.rewritten")
    with ExitStack() as opened:
        opened.callback(os.close, locked(path, alone=True))
        opened.enter_context(failing_in_one_line(path))
        environment = opened.enter_context(closing(open_environment(path, writable=False)))
        shutil.rmtree(rewritten, ignore_errors=True)
        opened.callback(shutil.rmtree, rewritten, ignore_errors=True)
        with LmdbHistoryStore(rewritten, writable=True, most_events=most_events) as store:
            store.replace_all(lambda: _histories(environment, most_events))
        before = old.stat()
        shutil.copymode(old, rewritten / DATA)
        os.chown(rewritten / DATA, before.st_uid, before.st_gid)
        (rewritten / DATA).replace(old)
        _sync(path)
    return Sizes(before.st_size, old.stat().st_size)


def _histories(environment: lmdb.Environment, most_events: int) -> Iterator[tuple[bytes, Events]]:
    try:
        tables = Tables.open(environment, writable=False)
    except lmdb.NotFoundError:
        yield from _of_first_layout(environment)
        return
    with environment.begin() as transaction:
        chunks = EventChunks(transaction, tables)
        for user_id in chunks.users():
            yield user_id, chunks.events(user_id, most_events)


def _of_first_layout(environment: lmdb.Environment) -> Iterator[tuple[bytes, Events]]:
    table = environment.open_db(FIRST_LAYOUT, create=False)
    with environment.begin(table) as transaction:
        for user_id, events in transaction.cursor():
            yield user_id, np.frombuffer(events, EVENT)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
