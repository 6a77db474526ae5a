"""Histories in LMDB: a folder of one host, which processes read while others write, one at a time."""

import fcntl
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import NamedTuple, Self, TypeVar

import lmdb
import numpy as np

from ensemble.stores.deletion_notices import DeletionNotices, Notice
from ensemble.stores.event_chunks import EventChunks, Tables
from ensemble.stores.history_store import (
    IDENTIFIED,
    MOST_EVENTS,
    Appended,
    Events,
    StoreError,
    Written,
    as_read,
    check_events,
)
from unipinrec.data.limits import LONGEST_USER_ID

DATA = "data.mdb"
GROWTH_BYTES = 256 << 20
"""Least room that a full map grows by. It is address space: the file grows as it is written."""
MODE = 0o600
"""Of the files of a new store, which are personal data."""

Found = TypeVar("Found")


class Kind(NamedTuple):
    """What a folder of LMDB's is, as its errors say."""

    name: str
    maker: str
    """What makes one."""

    def __str__(self) -> str:
        return self.name


HISTORIES = Kind("history store", "`unipinrec store`")


class LmdbHistoryStore:
    """A `HistoryStore` in a folder. A process may open a folder once, and use it from one thread at a time.

    Readers note themselves in the folder's lock file, so that writers leave alone what they read: they need
    to write to the folder too, and processes of several containers need one PID namespace.
    """

    def __init__(self, path: Path, *, writable: bool = False, most_events: int = MOST_EVENTS) -> None:
        """Open the folder to read, or else to write too, which makes it where there is none. Of each user the
        latest `most_events` are read, and kept when more are appended.

        Raises `StoreError` if something else is there, or the folder cannot be opened or not be written to.
        """
        self.path = path
        self._most_events = most_events
        check_folder(path, writable)
        with ExitStack() as opened:
            opened.callback(os.close, locked(path, alone=False))
            self._environment = opened.enter_context(closing(open_environment(path, writable=writable)))
            with failing_in_one_line(self.path):
                # What a killed reader has left would keep its pages from being used again.
                self._environment.reader_check()
                self._tables = Tables.open(self._environment, writable=writable)
            self._opened = opened.pop_all()

    @property
    def address(self) -> str:
        """The folder."""
        return str(self.path)

    def read(self, user_id: bytes) -> Events:
        """Return the stored events of a user, oldest first; empty for an unknown user."""
        return self.read_all([user_id])[0]

    def read_all(self, user_ids: Sequence[bytes]) -> list[Events]:
        """Return the stored events of several users, all in one transaction."""
        return self._read(lambda chunks: [as_read(self._stored(chunks, user_id)) for user_id in user_ids])

    def first_users(self, count: int) -> list[bytes]:
        """Return the ids of at most `count` users, in the order of their bytes."""
        return self._read(lambda chunks: list(islice(chunks.users(), count)))

    def histories(self) -> Iterator[tuple[bytes, Events]]:
        """Yield the id and the events, with the keys of their ids, of every user, as they are at the first.
        What others write meanwhile takes new room."""
        with self._reading() as chunks:
            for user_id in chunks.users():
                yield user_id, chunks.events(user_id, self._most_events)

    def append(self, user_id: bytes, events: Events) -> Appended:
        """Add events to a user's. Raises `InvalidEventsError` and `StoreError`, as the protocol says."""
        return self.append_all([(user_id, events)])[0]

    def append_all(self, histories: Collection[tuple[bytes, Events]]) -> list[Appended]:
        """Append to many users, all or nothing. Returns what became of the events of each."""
        return self._write(lambda chunks: [self._append(chunks, *history) for history in histories])

    def merge_all(self, histories: Collection[tuple[bytes, Events]]) -> list[Appended]:
        """Append to many users, all or nothing, what is not stored yet under whatever id."""
        return self._write(
            lambda chunks: [self._append(chunks, *history, known_by_id=False) for history in histories]
        )

    def replace_all(self, histories: Callable[[], Iterable[tuple[bytes, Events]]]) -> Written:
        """Store these in place of all that there are. Returns how many histories and events were written."""

        def change(chunks: EventChunks) -> Written:
            chunks.clear()
            stored = [self._append(chunks, *history).stored for history in histories()]
            return Written(np.count_nonzero(stored), sum(stored))

        return self._write(change)

    def delete(self, user_id: bytes) -> int:
        """Forget a user, and leave a notice of it. Returns how many events there were."""

        def change(chunks: EventChunks) -> int:
            DeletionNotices(chunks.transaction, self._tables.notices).add(user_id)
            return chunks.delete(user_id)

        return self._write(change)

    def deleted_after(self, number: int) -> list[Notice]:
        """Return the notices of deleted users with numbers above one; 0: all that are left."""
        with failing_in_one_line(self.path):
            if self._tables.notices is None:
                self._tables = Tables.open(self._environment, writable=False)
            table = self._tables.notices
            if table is None:
                return []
            return self._read(lambda chunks: DeletionNotices(chunks.transaction, table).after(number))

    def close(self) -> None:
        """Unmap the file."""
        self._opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _append(
        self, chunks: EventChunks, user_id: bytes, events: Events, *, known_by_id: bool = True
    ) -> Appended:
        checked = check_events(user_id, events)
        return chunks.append(user_id, checked, self._most_events, known_by_id=known_by_id)

    def _stored(self, chunks: EventChunks, user_id: bytes) -> Events:
        known = 0 < len(user_id) <= LONGEST_USER_ID
        return chunks.events(user_id, self._most_events) if known else np.empty(0, IDENTIFIED)

    def _read(self, look: Callable[[EventChunks], Found]) -> Found:
        with self._reading() as chunks:
            return look(chunks)

    @contextmanager
    def _reading(self) -> Iterator[EventChunks]:
        """A transaction of its own, and so with all that was written before it."""
        while True:
            try:
                transaction = self._environment.begin(buffers=True)
                break
            except lmdb.MapResizedError:
                self._environment.set_mapsize(0)
        with transaction:
            yield EventChunks(transaction, self._tables)

    def _write(self, change: Callable[[EventChunks], Found]) -> Found:
        with failing_in_one_line(self.path):
            while True:
                try:
                    with self._environment.begin(write=True) as transaction:
                        return change(EventChunks(transaction, self._tables))
                except lmdb.MapFullError:
                    size = self._environment.info()["map_size"]
                    self._environment.set_mapsize(size + max(size, GROWTH_BYTES))
                except lmdb.MapResizedError:
                    self._environment.set_mapsize(0)


def open_environment(path: Path, *, writable: bool) -> lmdb.Environment:
    """Return the open file of a store. Raises `StoreError` if LMDB cannot open it."""
    with failing_in_one_line(path):
        # A map of size 0 is as large as the writer has last made it.
        return lmdb.open(
            str(path),
            map_size=0,
            readonly=not writable,
            max_dbs=3,
            readahead=False,
            max_spare_txns=1,
            mode=MODE,
        )


def locked(path: Path, *, alone: bool) -> int:
    """Return a descriptor that keeps a lock on the folder until it is closed: `alone`, or beside others.

    LMDB's own would not do: who waits for it may already have opened the file that compaction replaces, and
    takes that file's latest transaction for the new one's. Raises `StoreError` if others are in the way.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        in_the_way = (
            "in use; stop the servers and whatever else has it open"
            if alone
            else "being compacted; try again once that is done"
        )
        raise StoreError(f"history store {path} is {in_the_way}") from None
    return descriptor


@contextmanager
def failing_in_one_line(path: Path, kind: Kind = HISTORIES) -> Iterator[None]:
    """Raise `StoreError`, in one line with the store's kind and path, for LMDB's errors."""
    try:
        yield
    except lmdb.NotFoundError:
        raise StoreError(
            f"{kind} {path} is of another layout; `unipinrec store compact` rewrites an older one"
        ) from None
    except lmdb.LockError as error:
        raise StoreError(
            f"{kind} {path}: {error}; another process has the same process id, as in a "
            "second container: give them one PID namespace"
        ) from error
    except lmdb.Error as error:
        raise StoreError(f"{kind} {path}: {error}") from error


def check_folder(path: Path, writable: bool, kind: Kind = HISTORIES) -> None:
    """Raises `StoreError` unless a store is there, or one can be made and is to be, and its lock file can be
    written to. Makes the folder of one that is to be made."""
    if not (path / DATA).is_file():
        if not writable or (path.exists() and not _is_empty_folder(path)):
            raise StoreError(f"{path} is no {kind}; {kind.maker} makes one in a new folder")
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    if os.statvfs(path).f_flag & os.ST_RDONLY:
        raise StoreError(
            f"{kind} {path} is on a read-only file system; its readers write to its lock file: "
            "mount it writable"
        )


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())
