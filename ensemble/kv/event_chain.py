"""A history's identity, position by position.

Shapes: N events, T = N + 1 positions (BOS first).
"""

import hashlib

import numpy as np

from ensemble.arrays import Int64s
from unipinrec.data.history import History

DIGEST_BYTES = 16
"""128 bits: no two histories can be made to share a digest, so a match needs no second look."""
LEAST_REUSED = 16
"""Positions below which a prefix is not worth a slot that may be another user's, unless it is all of a
history."""
RECENT_BLOCKS = 2
"""Latest blocks in which every position has a digest. A slot that lags further behind is met at the end of a
block, so that a long history costs few digests."""


class EventChain:
    """Digests of a history's prefixes, each made from the one before it and the events between.

    Equal digests mean equal events from the first to the last, and so equal keys and values. Every position
    of the latest blocks has one, before them every position that ends a block.
    """

    def __init__(self, history: History, bundle_id: str, block: int, owner: bytes = b"") -> None:
        """`bundle_id` keys the digests: other weights make other keys and values. `block` is the number of
        events by which a window moves. Events of another `owner` have other digests; BOS alone tells nothing,
        and is everybody's."""
        self.owner = owner
        fields = (history.item_row_N, history.actions_N, history.timestamp_N, history.surface_N)
        event_NX = np.stack(fields, axis=1).astype(np.int64)
        events, size = memoryview(event_NX.tobytes()), event_NX.itemsize * event_NX.shape[1]
        self._length = len(event_NX) + 1
        self._block = block
        recent = max(self.last_block - 1 - (RECENT_BLOCKS - 1) * block, 0)
        ends = [*range(block, recent, block), *range(max(recent, 1), self._length)]
        chain = hashlib.blake2b(bundle_id.encode(), digest_size=DIGEST_BYTES)
        self._digests = {1: chain.digest()}
        chain.update(owner)
        begin = 0
        for end in ends:
            chain.update(events[begin * size : end * size])
            self._digests[end + 1] = chain.copy().digest()
            begin = end

    def __len__(self) -> int:
        """Positions, BOS included."""
        return self._length

    @property
    def lengths(self) -> list[int]:
        """Positions whose prefix has a digest, the longest first."""
        return [*reversed(self._digests)]

    def digest(self, length: int) -> bytes | None:
        """Return what identifies the first `length` positions, if they have a digest; 1 is BOS alone."""
        return self._digests.get(length)

    @property
    def whole(self) -> bytes:
        """What identifies all positions."""
        return self._digests[self._length]

    @property
    def last_block(self) -> int:
        """Positions up to the last event that ends a block: what stays when the latest events change."""
        return (self._length - 1) // self._block * self._block + 1

    @property
    def first_halves(self) -> Int64s:
        """The first 8 bytes of every digest, to look for in a table."""
        return np.frombuffer(b"".join(self._digests.values()), np.int64)[::2]
