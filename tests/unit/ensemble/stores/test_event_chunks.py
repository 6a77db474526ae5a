"""Events are kept in chunks, in order of time, and the latest of each user."""

import struct
from pathlib import Path

import lmdb

from ensemble.stores.event_chunks import CHUNKS
from ensemble.stores.history_store import (
    Appended,
)
from ensemble.stores.lmdb_store import LmdbHistoryStore
from ensemble.stores.user_chunks import CHUNK_EVENTS
from tests.support.stored_events import EXTREMES, chunks_in, events, many, rows


def test_an_event_is_32_bytes_little_endian_without_gaps(path: Path) -> None:
    with LmdbHistoryStore(path, writable=True) as store:
        store.append(b"ann", events(EXTREMES))
    with (
        lmdb.open(str(path), readonly=True, max_dbs=1) as environment,
        environment.begin(db=environment.open_db(CHUNKS, create=False)) as transaction,
    ):
        [stored] = [value for _, value in transaction.cursor()]
    assert stored == b"".join(
        struct.pack("<qqQIi", item, time, 0, actions, surface) for item, actions, time, surface in EXTREMES
    )


def test_old_chunks_are_dropped_and_all_of_who_is_deleted(path: Path) -> None:
    with LmdbHistoryStore(path, writable=True, most_events=300) as store:
        for first in range(0, 2_000, 40):
            store.append(b"ann", events(many(40, first)))
        assert store.append(b"ann", events(many(5))) == Appended(stored=0, duplicates=0)
        assert rows(store.read(b"ann")) == many(300, first=1_700)
        assert chunks_in(store) == 300 // CHUNK_EVENTS + 1
    with LmdbHistoryStore(path, writable=True, most_events=10) as store:
        store.append(b"ann", events(many(1, first=2_000)))
        assert rows(store.read(b"ann")) == many(10, first=1_991)
        assert chunks_in(store) == 1
        store.append(b"bob", events(many(9)))
        store.delete(b"ann")
        assert chunks_in(store) == 1


def test_an_append_writes_a_few_pages_however_long_the_history_is(path: Path) -> None:
    with LmdbHistoryStore(path, writable=True) as store:
        store.append(b"ann", events(many(30_000)))
        written = []
        for first in range(30_000, 30_040, 2):
            before = chunk_pages(store)
            store.append(b"ann", events(many(2, first)))
            written.append(len(chunk_pages(store) - before))
    assert max(written) <= 2


def chunk_pages(store: LmdbHistoryStore) -> set[tuple[bytes, bytes]]:
    """Keys and contents of the chunks."""
    with store._environment.begin(store._tables.chunks) as transaction:
        return set(transaction.cursor())
