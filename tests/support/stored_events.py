"""Events as stores take them, and back."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ensemble.stores.history_store import (
    EVENT,
    Events,
    event_key,
)
from ensemble.stores.lmdb_store import LmdbHistoryStore

Event = tuple[int, int, int, int]

EXTREMES: list[Event] = [(0, 0, 0, 0), (2**63 - 1, 2**32 - 1, 99_999_999_999, 2**31 - 1)]


def events(rows: list[Event]) -> NDArray[np.void]:
    return np.array(rows, EVENT)


def many(count: int, first: int = 0) -> list[Event]:
    return [(7 * n, n % 8, n, n % 3) for n in range(first, first + count)]


def rows(found: NDArray[np.void]) -> list[Event]:
    assert found.dtype == EVENT
    return [tuple(event) for event in found.tolist()]


def identified(rows: list[tuple[int, int, int, int, str]]) -> Events:
    found = [(*row[:4], event_key(row[4].encode())) for row in rows]
    return np.array(found, [*((name, "<i8") for name in EVENT.names or ()), ("event_id", "<u8")])


def written(path: Path, user_id: bytes, count: int) -> Path:
    with LmdbHistoryStore(path, writable=True) as store:
        store.append(user_id, events(many(count)))
    return path


def chunks_in(store: LmdbHistoryStore) -> int:
    with store._environment.begin() as transaction:
        return transaction.stat(store._tables.chunks)["entries"]
