"""Events are kept in chunks, in order of time, and the latest of each user."""

import struct
from pathlib import Path
from tempfile import TemporaryDirectory

import lmdb
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemble.stores.event_chunks import CHUNKS
from ensemble.stores.history_store import (
    Appended,
)
from ensemble.stores.lmdb_store import LmdbHistoryStore
from ensemble.stores.user_chunks import CHUNK_EVENTS
from tests.support.stored_events import EXTREMES, Event, chunks_in, events, identified, many, rows


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


USERS = [b"an", b"ann", b"ann\0\0\0\0"]


@settings(max_examples=60, deadline=None)
@given(
    blocks=st.lists(
        st.tuples(
            st.sampled_from(USERS),
            st.integers(0, 1000).map(lambda first: 7 * first),
            st.integers(1, 200),
            st.sampled_from([0, 1, 7]),
            st.integers(0, 3),
            st.booleans(),
        ),
        max_size=12,
    ),
    most=st.sampled_from([1, 5, 127, 128, 300, 10_000]),
)
def test_in_whatever_order_events_come_the_latest_are_read_once_and_in_order(
    blocks: list[tuple[bytes, int, int, int, int, bool]], most: int
) -> None:
    """Against sorting a dictionary of all events."""
    unions: dict[bytes, dict[object, Event]] = {}
    with TemporaryDirectory(dir="/dev/shm") as folder:
        path = Path(folder) / "histories"
        with LmdbHistoryStore(path, writable=True, most_events=most) as store:
            for user, first, length, step, item, with_ids in blocks:
                union = unions.setdefault(user, {})
                before = len(union)
                named = [
                    (item, 1 + n % 3, time, n % 2, f"{time}" if with_ids and n % 5 else "")
                    for n, time in enumerate(first + step * n for n in range(length))
                ]
                for *event, name in named:
                    union.setdefault(name or (event[0], *event[2:]), tuple(event))
                appended = store.append(user, identified(named))
                new = len(union) - before
                assert len(union) > most or appended == (new, length - new)
        with LmdbHistoryStore(path, most_events=most) as store:
            assert store.first_users(9) == sorted(unions)
            for user, union in unions.items():
                found, right = rows(store.read(user)), sorted(union.values(), key=lambda event: event[2])
                assert len(found) == min(len(right), most)
                # Of the oldest second that is kept, which events are depends on which have been dropped.
                cut = found[0][2] if len(right) > most else -1
                assert [e for e in found if e[2] > cut] == [e for e in right[-most:] if e[2] > cut]
                assert found[0][2] == right[-most:][0][2]


def test_old_chunks_are_dropped_and_later_ones_stay(path: Path) -> None:
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
