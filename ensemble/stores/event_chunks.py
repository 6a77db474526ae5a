"""Users' events in tables of an LMDB file, in chunks, so that an append writes about as much as it adds.

`USERS` has each user's number and chunks by user id, `CHUNKS` each chunk by number and place, as events of
dtype `IDENTIFIED`. All chunks of a user but the latest are full.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from struct import Struct
from typing import Any, Self

import lmdb
import numpy as np

from ensemble.stores.deletion_notices import NOTICES
from ensemble.stores.history_store import IDENTIFIED, NO_EVENT_ID, Appended, Events, is_new, without_ids

USERS, CHUNKS = b"users-2", b"events-2"
"""The tables. Their names tell a store of this layout from any other file of LMDB's."""

CHUNK_EVENTS = 127
"""Events of a full chunk, which with LMDB's header fills a page of 4,096 bytes."""

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
        return np.empty(0, IDENTIFIED) if extent is None else self._from(extent, extent.first)[-most:]

    def append(self, user_id: bytes, given: Events, most: int, *, known_by_id: bool = True) -> Appended:
        """Add events to a user's, in order of time; at least the latest `most` are kept. Unless events are
        `known_by_id`, what is said of one tells it from others, whatever id either has."""
        if len(given) == 0:
            return Appended(0, 0)
        extent = self._extent(user_id) or Extent(self._free_number())
        start = self._start(extent, given["timestamp"][0])
        late = self._from(extent, start)
        # The same id may be anywhere, the same item and time only at that time.
        has_ids = known_by_id and (given["event_id"] != NO_EVENT_ID).any()
        stored = self._from(extent, extent.first) if has_ids else late
        new = given[is_new(stored, given) if known_by_id else is_new(without_ids(stored), without_ids(given))]
        events = np.concatenate([late, new])
        order = np.argsort(events["timestamp"], kind="stable")
        if len(new):
            self._put(user_id, extent, start, events[order], most)
        return Appended(int((order[-most:] >= len(late)).sum()), len(given) - len(new))

    def clear(self) -> None:
        """Remove all users."""
        for table in (self._users, self._chunks):
            self.transaction.drop(table, delete=False)

    def delete(self, user_id: bytes) -> int:
        """Remove a user. Returns how many events there were."""
        extent = self._extent(user_id)
        if extent is None:
            return 0
        count = len(self._from(extent, extent.first))
        for place in range(extent.first, extent.end):
            self.transaction.delete(extent.key(place), db=self._chunks)
        self.transaction.delete(user_id, db=self._users)
        return count

    def _extent(self, user_id: bytes) -> Extent | None:
        found = self.transaction.get(user_id, db=self._users)
        return None if found is None else Extent(*USER.unpack(found))

    def _free_number(self) -> int:
        with self.transaction.cursor(self._chunks) as cursor:
            return KEY.unpack(cursor.key())[0] + 1 if cursor.last() else 0

    def _start(self, extent: Extent, time: int) -> int:
        """The chunk from which on all events of `time` and later are."""
        start = max(extent.end - 1, extent.first)
        while start > extent.first and self._chunk(extent, start)["timestamp"][0] >= time:
            start -= 1
        return start

    def _from(self, extent: Extent, start: int) -> Events:
        """The events of the chunks from one on."""
        with self.transaction.cursor(self._chunks) as cursor:
            cursor.set_key(extent.key(start))
            values = cursor.iternext(keys=False)
            return np.frombuffer(b"".join(islice(values, extent.end - start)), IDENTIFIED)

    def _chunk(self, extent: Extent, place: int) -> Events:
        return np.frombuffer(self.transaction.get(extent.key(place), b"", db=self._chunks), IDENTIFIED)

    def _put(self, user_id: bytes, extent: Extent, start: int, events: Events, most: int) -> None:
        """Store these events as the chunks from `start` on, and remove the oldest ones that nobody reads."""
        begins = range(0, len(events), CHUNK_EVENTS)
        for place, begin in enumerate(begins, start):
            chunk = events[begin : begin + CHUNK_EVENTS]
            self.transaction.put(extent.key(place), chunk.tobytes(), db=self._chunks)
        spare = (start - extent.first) * CHUNK_EVENTS + len(events) - most
        first = extent.first + max(spare // CHUNK_EVENTS, 0)
        for place in range(extent.first, first):
            self.transaction.delete(extent.key(place), db=self._chunks)
        self.transaction.put(user_id, USER.pack(extent.number, first, start + len(begins)), db=self._users)
