"""Users' events in tables of an LMDB file, in chunks, so that an append writes about as much as it adds.

`USERS` has each user's number and chunks by user id, `CHUNKS` each chunk by number and place, as events of
dtype `IDENTIFIED`. All chunks of a user but the latest are full.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from struct import Struct
from typing import Any, Self

import lmdb
import numpy as np

from ensemble.stores.deletion_notices import NOTICES
from ensemble.stores.history_store import IDENTIFIED, Appended, Events
from ensemble.stores.user_chunks import UserChunks

USERS, CHUNKS = b"users-2", b"events-2"
"""The tables. Their names tell a store of this layout from any other file of LMDB's."""

USER = Struct("<QII")
KEY = Struct(">QI")


@dataclass(frozen=True, slots=True)
class Extent:
    """A user's number, and the places of the chunks, `first` to `end - 1`."""

    number: int
    first: int = 0
    end: int = 0

    def key(self, place: int) -> bytes:
        """Return the key of a chunk. A user's keys are beside each other, in order."""
        return KEY.pack(self.number, place)


@dataclass(frozen=True, slots=True)
class Tables:
    """The tables of an open file."""

    users: Any
    chunks: Any
    notices: Any | None
    """None in a file from before there were notices, until somebody writes to it."""

    @classmethod
    def open(cls, environment: lmdb.Environment, *, writable: bool) -> Self:
        """Open all, of which a writer makes those that are missing. Raises `lmdb.NotFoundError` if the file
        holds something else."""
        with environment.begin() as transaction:
            names = set(transaction.cursor().iternext(values=False))
        if writable and (not names or names == {USERS, CHUNKS}):
            with environment.begin(write=True) as transaction:
                for name in (USERS, CHUNKS, NOTICES):
                    environment.open_db(name, transaction)
            names.add(NOTICES)
        users, chunks = (environment.open_db(name, create=False) for name in (USERS, CHUNKS))
        return cls(users, chunks, environment.open_db(NOTICES, create=False) if NOTICES in names else None)


class EventChunks:
    """The events of all users in one transaction."""

    def __init__(self, transaction: lmdb.Transaction, tables: Tables) -> None:
        self.transaction = transaction
        self._users, self._chunks = tables.users, tables.chunks

    def users(self) -> Iterator[bytes]:
        """Yield the ids of all users, in the order of their bytes."""
        with self.transaction.cursor(self._users) as cursor:
            yield from map(bytes, cursor.iternext(keys=True, values=False))

    def events(self, user_id: bytes, most: int) -> Events:
        """Return the latest `most` events of a user, oldest first."""
        extent = self._extent(user_id)
        return np.empty(0, IDENTIFIED) if extent is None else self.since(extent, extent.first)[-most:]

    def append(self, user_id: bytes, given: Events, most: int, *, known_by_id: bool = True) -> Appended:
        """Add events to a user's, as `UserChunks.append` does."""
        if len(given) == 0:
            return Appended(0, 0)
        extent = self._extent(user_id) or Extent(self._free_number())
        return StoredChunks(self, user_id, extent).append(given, most, known_by_id=known_by_id)

    def clear(self) -> None:
        """Remove all users."""
        for table in (self._users, self._chunks):
            self.transaction.drop(table, delete=False)

    def delete(self, user_id: bytes) -> int:
        """Remove a user. Returns how many events there were."""
        extent = self._extent(user_id)
        if extent is None:
            return 0
        count = len(self.since(extent, extent.first))
        self.drop(extent)
        self.transaction.delete(user_id, db=self._users)
        return count

    def _extent(self, user_id: bytes) -> Extent | None:
        found = self.transaction.get(user_id, db=self._users)
        return None if found is None else Extent(*USER.unpack(found))

    def _free_number(self) -> int:
        with self.transaction.cursor(self._chunks) as cursor:
            return KEY.unpack(cursor.key())[0] + 1 if cursor.last() else 0

    def since(self, extent: Extent, start: int) -> Events:
        """Return the events of a user's chunks from one on."""
        with self.transaction.cursor(self._chunks) as cursor:
            cursor.set_key(extent.key(start))
            values = cursor.iternext(keys=False)
            return np.frombuffer(b"".join(islice(values, extent.end - start)), IDENTIFIED)

    def chunk(self, extent: Extent, place: int) -> Events:
        """Return the events of one chunk."""
        return np.frombuffer(self.transaction.get(extent.key(place), b"", db=self._chunks), IDENTIFIED)

    def put(self, user_id: bytes, extent: Extent, start: int, chunks: Sequence[Events]) -> None:
        """Store these as the chunks from `start` on of a user, whose chunks are then those of `extent`."""
        for place, chunk in enumerate(chunks, start):
            self.transaction.put(extent.key(place), chunk.tobytes(), db=self._chunks)
        self.transaction.put(user_id, USER.pack(extent.number, extent.first, extent.end), db=self._users)

    def drop(self, extent: Extent) -> None:
        """Remove chunks."""
        for place in range(extent.first, extent.end):
            self.transaction.delete(extent.key(place), db=self._chunks)


class StoredChunks(UserChunks):
    """The chunks of one user in one transaction."""

    def __init__(self, tables: EventChunks, user_id: bytes, extent: Extent) -> None:
        self._tables, self._user_id, self._extent = tables, user_id, extent
        self.first, self.end = extent.first, extent.end

    def since(self, place: int) -> Events:
        """Return the events of the chunks from one on."""
        return self._tables.since(self._extent, place)

    def earliest(self, place: int) -> int:
        """Return the time of the first event of a chunk."""
        return int(self._tables.chunk(self._extent, place)["timestamp"][0])

    def put(self, start: int, chunks: Sequence[Events], first: int) -> None:
        """Store these as the chunks from `start` on, and drop those before `first`."""
        extent = Extent(self._extent.number, first, start + len(chunks))
        self._tables.put(self._user_id, extent, start, chunks)
        self._tables.drop(Extent(extent.number, self.first, first))
