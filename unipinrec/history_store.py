"""Users' stored histories in one read-only LMDB file: user id to packed events, oldest first."""

from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Self

import lmdb
import numpy as np
from numpy.typing import NDArray

EVENT = np.dtype([("item_id", "<i8"), ("actions", "<i8"), ("timestamp", "<i8"), ("surface", "<i4")])
"""One stored event. Item ids are external, so that a store outlives a bundle's row numbers."""

LONGEST_USER_ID = 256
"""Bytes of the longest user id."""

PAGE = 4096
FIXED_ROOM = 64 << 20
"""Bytes for a store of any size: LMDB's own tables."""


def write_histories(
    path: Path, histories: Iterable[tuple[str, NDArray[np.void]]], *, users: int, events: int
) -> int:
    """Write `(user id, events of dtype EVENT)` pairs into a new file, and return how many.

    `users` and `events` are the most there can be; the map is made large enough for them.

    Raises:
        ValueError: a user id is empty or too long.
    """
    count = 0
    # A long value fills whole pages, and a page splits when its keys outgrow it. Unused room costs nothing.
    most = 2 * (events * EVENT.itemsize + users * (PAGE + LONGEST_USER_ID)) + FIXED_ROOM
    environment = lmdb.open(str(path), subdir=False, map_size=most, lock=False)
    with environment, environment.begin(write=True) as transaction:
        for user_id, history in histories:
            key = user_id.encode()
            if not 0 < len(key) <= LONGEST_USER_ID:
                raise ValueError(f"user_id {user_id!r} has {len(key)} bytes; allowed: 1 to {LONGEST_USER_ID}")
            transaction.put(key, history.astype(EVENT).tobytes())
            count += 1
    return count


class HistoryStore:
    """Read access to a store, safe to share between processes."""

    def __init__(self, path: Path) -> None:
        self._environment = lmdb.open(
            str(path), subdir=False, readonly=True, lock=False, readahead=False, max_spare_txns=1
        )

    def read(self, user_id: bytes) -> NDArray[np.void]:
        """All stored events of a user, oldest first; empty for an unknown user."""
        if not 0 < len(user_id) <= LONGEST_USER_ID:
            return np.empty(0, EVENT)
        with self._environment.begin(buffers=True) as transaction:
            stored = transaction.get(user_id)
            return np.empty(0, EVENT) if stored is None else np.frombuffer(bytes(stored), EVENT)

    def first_users(self, count: int) -> list[str]:
        """Ids of at most `count` users with a stored history, in the order of their bytes."""
        with self._environment.begin() as transaction:
            return [key.decode() for key, _ in islice(transaction.cursor(), count)]

    def close(self) -> None:
        """Unmap the file."""
        self._environment.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
