"""Rewriting a store's file, without the pages of what was deleted or replaced and in the layout of today."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import lmdb
import numpy as np

from ensemble.stores.event_chunks import EventChunks, Tables
from ensemble.stores.history_store import EVENT, Events, StoreError
from ensemble.stores.lmdb_store import DATA, MOST_EVENTS, LmdbHistoryStore, check_folder, failing_in_one_line

LOCK = "lock.mdb"
FIRST_LAYOUT = b"histories-1"
"""A table with the whole history of each user, in dtype `EVENT`."""


class Sizes(NamedTuple):
    """Bytes of the file."""

    before: int
    after: int


def compact(path: Path, most_events: int = MOST_EVENTS) -> Sizes:
    """Rewrite the store at `path` with the latest `most_events` of each user. Raises `StoreError`, and leaves
    the store as it is, if there is none, or another process has it open: that would go on with the old file.
    """
    check_folder(path, writable=False)
    old, rewritten = path / DATA, path.with_name(f"{path.name}.rewritten")
    with (
        failing_in_one_line(path),
        closing(lmdb.open(str(path), readonly=True, max_dbs=3)) as environment,
        _alone(path),
    ):
        shutil.rmtree(rewritten, ignore_errors=True)
        with LmdbHistoryStore(rewritten, writable=True, most_events=most_events) as store:
            store.replace_all(lambda: _histories(environment, most_events))
        before = old.stat()
        shutil.copymode(old, rewritten / DATA)
        os.chown(rewritten / DATA, before.st_uid, before.st_gid)
        (rewritten / DATA).replace(old)
        _sync(path)
    shutil.rmtree(rewritten)
    return Sizes(before.st_size, old.stat().st_size)


def _histories(environment: lmdb.Environment, most_events: int) -> Iterator[tuple[bytes, Events]]:
    try:
        tables = Tables.open(environment, create=False)
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


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Keep other processes from opening a store that this one has open: users of LMDB share a lock on the
    first byte of the lock file.
    """
    with (path / LOCK).open("r+b") as lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB, 1)
        except OSError:
            raise StoreError(
                f"history store {path} is in use; stop the servers and whatever else has it open"
            ) from None
        yield


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
