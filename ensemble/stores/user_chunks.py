"""One user's events in chunks, all but the latest of them full, and what an append changes of them."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from ensemble.stores.history_store import NO_EVENT_ID, Appended, Events, is_new, without_ids

CHUNK_EVENTS = 127
"""Events of a full chunk, which with LMDB's header fills a page of 4,096 bytes."""


class UserChunks(ABC):
    """The chunks at the places `first` to `end - 1`, in order of time, as a store holds them."""

    first: int
    end: int

    @abstractmethod
    def since(self, place: int) -> Events:
        """Return the events of the chunks from one on, in dtype `IDENTIFIED`."""

    @abstractmethod
    def earliest(self, place: int) -> int:
        """Return the time of the first event of a chunk."""

    @abstractmethod
    def put(self, start: int, chunks: Sequence[Events], first: int) -> None:
        """Store these as the chunks from `start` on, the last of which is the user's latest, and drop those
        before `first`."""

    def append(self, given: Events, most: int, *, known_by_id: bool = True) -> Appended:
        """Add events in order of time; at least the latest `most` are kept. Unless events are `known_by_id`,
        what is said of one tells it from others, whatever id either has."""
        if len(given) == 0:
            return Appended(0, 0)
        start = self._start(int(given["timestamp"][0]))
        late = self.since(start)
        stored = self.since(self.first) if looks_for_ids(given, known_by_id) else late
        new = given[is_new(stored, given) if known_by_id else is_new(without_ids(stored), without_ids(given))]
        events = np.concatenate([late, new])
        order = np.argsort(events["timestamp"], kind="stable")
        if len(new):
            self._put(start, events[order], most)
        return Appended(int((order[-most:] >= len(late)).sum()), len(given) - len(new))

    def _start(self, time: int) -> int:
        """The chunk from which on all events of `time` and later are."""
        start = max(self.end - 1, self.first)
        while start > self.first and self.earliest(start) >= time:
            start -= 1
        return start

    def _put(self, start: int, events: Events, most: int) -> None:
        """Store these events as the chunks from `start` on, and drop the oldest ones that nobody reads."""
        chunks = [events[begin : begin + CHUNK_EVENTS] for begin in range(0, len(events), CHUNK_EVENTS)]
        spare = (start - self.first) * CHUNK_EVENTS + len(events) - most
        self.put(start, chunks, self.first + max(spare // CHUNK_EVENTS, 0))


def looks_for_ids(given: Events, known_by_id: bool) -> bool:
    """Return whether all of a user's events are needed to append these: the same id may be anywhere, the same
    item and time only at that time."""
    return known_by_id and bool((given["event_id"] != NO_EVENT_ID).any())
