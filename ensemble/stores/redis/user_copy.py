"""A copy of one user's chunks, which is changed here and then written to Redis in one step."""

from collections.abc import Mapping, Sequence

import numpy as np

from ensemble.stores.history_store import IDENTIFIED, Events
from ensemble.stores.redis.layout import HEAD, MAGIC, MARK_BYTES, Head, full_chunks, opened
from ensemble.stores.user_chunks import UserChunks, looks_for_ids

NOTHING = np.empty(0, IDENTIFIED)


class UserCopy(UserChunks):
    """The latest chunk of a user and, where that is not enough, all the others."""

    def __init__(self, user_id: bytes, value: bytes) -> None:
        """`value` is the user's head, empty for an unknown user. Raises `LayoutError`."""
        self.user_id = user_id
        self._mark = value[:MARK_BYTES]
        head, latest = opened(value) if value else (Head(), NOTHING)
        self._head = head
        self.first, self.end = head.first, head.end
        self._chunks = {self.end - 1: latest} if value else {}
        self._changed: set[int] = set()

    def lacks(self, given: Events, known_by_id: bool) -> bool:
        """Return whether earlier chunks are needed to append these events."""
        if self.end - self.first < 2 or not len(given):
            return False
        return looks_for_ids(given, known_by_id) or self.earliest(self.end - 1) >= given["timestamp"][0]

    def add_full(self, found: Mapping[bytes, bytes]) -> None:
        """Take the chunks that were lacking, as the user's hash has them. Raises `LayoutError`."""
        self._chunks |= full_chunks(self._head, found)

    def since(self, place: int) -> Events:
        """Return the events of the chunks from one on."""
        return np.concatenate([NOTHING, *(self._chunks[place] for place in range(place, self.end))])

    def earliest(self, place: int) -> int:
        """Return the time of the first event of a chunk."""
        return int(self._chunks[place]["timestamp"][0])

    def put(self, start: int, chunks: Sequence[Events], first: int) -> None:
        """Take these as the chunks from `start` on, and drop those before `first`."""
        self._chunks |= dict(enumerate(chunks, start))
        self._changed.update(range(start, start + len(chunks)))
        self.first, self.end = first, start + len(chunks)

    @property
    def is_changed(self) -> bool:
        """Whether there is something to write."""
        return bool(self._changed)

    def changes(self, token: bytes) -> list[bytes | int]:
        """Return the user's part of the arguments of the script `WRITE`."""
        head = HEAD.pack(MAGIC, token, self.first, self.end)
        full = [place for place in sorted(self._changed) if self.first <= place < self.end - 1]
        pairs = [part for place in full for part in (place, self._chunks[place].tobytes())]
        value = head + self._chunks[self.end - 1].tobytes()
        return [self.user_id, self._mark, value, self._head.first, self.first, len(pairs), *pairs]
