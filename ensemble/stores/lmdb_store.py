"""Histories in LMDB: a folder of one host, which processes read while others write, one at a time."""

import os
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Self, TypeVar

import lmdb
import numpy as np

from ensemble.stores.history_store import EVENT, Events, StoreError, Written, check_events, merge
from unipinrec.data.limits import LONGEST_USER_ID

DATABASE = b"histories-1"
"""The table in LMDB's file. Its name tells a store of this layout from any other file of LMDB's."""
DATA = "data.mdb"
GROWTH_BYTES = 256 << 20
"""Least room that a full map grows by. It is address space: the file grows as it is written."""
MODE = 0o600
"""Of the files of a new store, which are personal data."""

Found = TypeVar("Found")


class LmdbHistoryStore:
    """A `HistoryStore` in a folder. A process may open a folder once, and use it from one thread at a time.

    Readers note themselves in the folder's lock file, so that writers leave alone what they read: they need
    to write to the folder too, and processes of several containers need one PID namespace.
    """

    def __init__(self, path: Path, *, writable: bool = False) -> None:
        """Open the folder to read, or else to write too, which makes it where there is none. Raises
        `StoreError` if something else is there, or the folder cannot be opened or not be written to."""
        self._path = path
        _check_folder(path, writable)
        with self._failing():
            # A map of size 0 is as large as the writer has last made it.
            self._environment = lmdb.open(
                str(path),
                map_size=0,
                readonly=not writable,
                max_dbs=1,
                readahead=False,
                max_spare_txns=1,
                mode=MODE,
            )
        try:
            with self._failing():
                # What a killed reader has left would keep its pages from being used again.
                self._environment.reader_check()
                is_new = writable and self._environment.stat()["entries"] == 0
                self._histories = self._environment.open_db(DATABASE, create=is_new)
        except StoreError:
            self._environment.close()
            raise

    def read(self, user_id: bytes) -> Events:
        """Return all stored events of a user, oldest first; empty for an unknown user."""
        if not 0 < len(user_id) <= LONGEST_USER_ID:
            return np.empty(0, EVENT)
        return self._read(lambda transaction: _events(transaction, user_id))

    def first_users(self, count: int) -> list[bytes]:
        """Return the ids of at most `count` users, in the order of their bytes."""
        return self._read(lambda transaction: [bytes(key) for key, _ in islice(transaction.cursor(), count)])

    def append(self, user_id: bytes, events: Events) -> None:
        """Add events to a user's. Raises `InvalidEventsError` and `StoreError`, as the protocol says."""
        self.append_all([(user_id, events)])

    def append_all(self, histories: Collection[tuple[bytes, Events]]) -> Written:
        """Append to many users, all or nothing. Returns how many histories and events were written."""
        return self._write(lambda transaction: _put(transaction, histories))

    def replace_all(self, histories: Callable[[], Iterable[tuple[bytes, Events]]]) -> Written:
        """Store these in place of all that there are. Returns how many histories and events were written."""

        def change(transaction: lmdb.Transaction) -> Written:
            transaction.drop(self._histories, delete=False)
            return _put(transaction, histories())

        return self._write(change)

    def close(self) -> None:
        """Unmap the file."""
        self._environment.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self, look: Callable[[lmdb.Transaction], Found]) -> Found:
        while True:
            try:
                # A transaction of its own, and so with all that was written before it.
                with self._environment.begin(db=self._histories) as transaction:
                    return look(transaction)
            except lmdb.MapResizedError:
                self._environment.set_mapsize(0)

    def _write(self, change: Callable[[lmdb.Transaction], Found]) -> Found:
        with self._failing():
            while True:
                try:
                    with self._environment.begin(db=self._histories, write=True) as transaction:
                        return change(transaction)
                except lmdb.MapFullError:
                    size = self._environment.info()["map_size"]
                    self._environment.set_mapsize(size + max(size, GROWTH_BYTES))
                except lmdb.MapResizedError:
                    self._environment.set_mapsize(0)

    @contextmanager
    def _failing(self) -> Iterator[None]:
        """Say LMDB's errors in one line with the store's path."""
        try:
            yield
        except lmdb.NotFoundError:
            raise StoreError(f"history store {self._path} is of another layout") from None
        except lmdb.LockError as error:
            raise StoreError(
                f"history store {self._path}: {error}; another process has the same process id, as in a "
                "second container: give them one PID namespace"
            ) from error
        except lmdb.Error as error:
            raise StoreError(f"history store {self._path}: {error}") from error


def _events(transaction: lmdb.Transaction, user_id: bytes) -> Events:
    return np.frombuffer(transaction.get(user_id, b""), EVENT)


def _put(transaction: lmdb.Transaction, histories: Iterable[tuple[bytes, Events]]) -> Written:
    """Add events to those that there are; nobody is stored without events."""
    users, total = 0, 0
    for user_id, given in histories:
        events = check_events(user_id, given)
        if len(events):
            transaction.put(user_id, merge(_events(transaction, user_id), events).tobytes())
            users, total = users + 1, total + len(events)
    return Written(users, total)


def _check_folder(path: Path, writable: bool) -> None:
    if not (path / DATA).is_file():
        if not writable or (path.exists() and not _is_empty_folder(path)):
            raise StoreError(f"{path} is no history store; `unipinrec store` makes one in a new folder")
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    if os.statvfs(path).f_flag & os.ST_RDONLY:
        raise StoreError(
            f"history store {path} is on a read-only file system; its readers write to its lock file: "
            "mount it writable"
        )


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())
