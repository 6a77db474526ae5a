"""Stored histories come back as they were written, each event once."""

from pathlib import Path

import numpy as np
import pytest

from ensemble.stores.history_store import (
    EVENT,
    Appended,
    InvalidEventsError,
    event_key,
    exported_id,
)
from ensemble.stores.lmdb_store import LmdbHistoryStore
from tests.support.stored_events import EXTREMES, Event, chunks_in, events, identified, many, rows, written


def test_every_history_is_read_as_it_was_written(path: Path) -> None:
    stored = {b"ann": EXTREMES, "Ünïcode 用户".encode(): many(1), b"x" * 256: many(3000)}
    stored |= {b"ann\0": many(2), b"\0": many(3), b"\xff\xfe": many(4)}
    with LmdbHistoryStore(path, writable=True) as store:
        for user_id, expected in stored.items():
            store.append(user_id, events(expected))
    with LmdbHistoryStore(path) as store:
        for user_id, expected in stored.items():
            assert rows(store.read(user_id)) == expected
        assert store.first_users(10) == sorted(stored)
        assert store.first_users(2) == [b"\0", b"ann"]


@pytest.mark.parametrize("user_id", [b"", b"an", b"anna", b"ANN", b"ann\0", b"\xff", b"x" * 256, b"x" * 600])
def test_an_unknown_user_has_no_events(store: LmdbHistoryStore, user_id: bytes) -> None:
    store.append(b"ann", events(many(2)))
    assert rows(store.read(user_id)) == []


def test_a_user_who_is_given_no_events_is_not_stored(store: LmdbHistoryStore) -> None:
    store.append(b"ann", events([]))
    assert store.first_users(1) == []


def test_later_events_come_behind_and_late_ones_in_order_of_time(store: LmdbHistoryStore) -> None:
    store.append(b"ann", events([(1, 1, 10, 0), (2, 1, 20, 0)]))
    store.append(b"ann", events([(3, 1, 30, 0)]))
    store.append(b"ann", events([(4, 1, 5, 0), (5, 1, 20, 0), (6, 1, 20, 0), (7, 1, 25, 0)]))
    assert [event[0] for event in rows(store.read(b"ann"))] == [4, 1, 2, 5, 6, 7, 3]


@pytest.mark.parametrize(
    ("user_id", "message"),
    [
        (b"", r"^user_id '' has 0 bytes; allowed: 1 to 256$"),
        (b"x" * 257, rf"^user_id '{'x' * 257}' has 257 bytes; allowed: 1 to 256$"),
        (("ü" * 129).encode(), rf"^user_id '{'ü' * 129}' has 258 bytes; allowed: 1 to 256$"),
    ],
)
def test_a_user_id_without_bytes_or_with_too_many_is_refused(
    store: LmdbHistoryStore, user_id: bytes, message: str
) -> None:
    with pytest.raises(InvalidEventsError, match=message):
        store.append(user_id, events(many(1)))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ((-1, 1, 9, 0), r"^item_id is -1 at event 2; allowed: 0 to 9223372036854775807$"),
        ((1, -1, 9, 0), r"^actions is -1 at event 2; allowed: 0 to 4294967295$"),
        ((1, 2**32, 9, 0), r"^actions is 4294967296 at event 2; allowed: 0 to 4294967295$"),
        ((1, 1, -1, 0), r"^timestamp is -1 at event 2; allowed: 0 to 99999999999$"),
        ((1, 1, 1_700_000_000_000, 0), r"^timestamp is 1700000000000 at event 2; allowed: 0 to 99999999999$"),
        ((1, 1, 9, -1), r"^surface is -1 at event 2; allowed: 0 to 2147483647$"),
        ((1, 1, 9, 2**31), r"^surface is 2147483648 at event 2; allowed: 0 to 2147483647$"),
        ((1, 1, 0, 0), r"^timestamp is 0 at event 2; allowed: ascending, at least 1$"),
    ],
)
def test_events_that_are_not_allowed_are_refused_by_value(
    store: LmdbHistoryStore, row: Event, message: str
) -> None:
    wide = np.dtype([(name, "<i8") for name in EVENT.names or ()])
    store.append(b"ann", events(many(2)))
    with pytest.raises(InvalidEventsError, match=message):
        store.append(b"ann", np.array([*many(2), row], wide))
    assert rows(store.read(b"ann")) == many(2)


def test_a_refused_user_leaves_no_other_behind(store: LmdbHistoryStore) -> None:
    histories = [(b"ann", events(many(2))), (b"x" * 257, events(many(2)))]
    with pytest.raises(InvalidEventsError, match="257 bytes"):
        store.append_all(histories)
    assert store.first_users(9) == []
    store.append(b"bob", events(many(3)))
    with pytest.raises(InvalidEventsError, match="257 bytes"):
        store.replace_all(lambda: histories)
    assert store.first_users(9) == [b"bob"]


def test_many_are_appended_to_in_one_step_and_counted(store: LmdbHistoryStore) -> None:
    store.append(b"ann", events(many(2)))
    assert store.append_all(
        [(b"ann", events(many(3, first=2))), (b"bob", events(many(4))), (b"cy", events([]))]
    ) == [(3, 0), (4, 0), (0, 0)]
    assert rows(store.read(b"ann")) == many(5)
    assert rows(store.read(b"bob")) == many(4)


def test_replacing_leaves_nobody_of_before(store: LmdbHistoryStore) -> None:
    store.append_all([(user, events(many(9))) for user in (b"ann", b"bob")])
    assert store.replace_all(lambda: iter([(b"bob", events(many(2))), (b"cy", events(many(1)))])) == (2, 3)
    assert store.first_users(9) == [b"bob", b"cy"]
    assert rows(store.read(b"bob")) == many(2)


def test_columns_of_other_integer_types_and_in_another_order_are_converted(store: LmdbHistoryStore) -> None:
    wide = np.dtype([(name, ">i8") for name in ("surface", "timestamp", "item_id", "actions")])
    store.append(b"ann", np.array([(3, 9, 1, 2)], wide))
    assert rows(store.read(b"ann")) == [(1, 2, 9, 3)]


def test_what_was_read_stays_valid_after_the_store_is_closed(path: Path) -> None:
    store = LmdbHistoryStore(written(path, b"ann", 50))
    found = store.read(b"ann")
    store.close()
    assert rows(found) == many(50)


def test_an_event_without_an_id_is_stored_once_by_item_time_and_surface(store: LmdbHistoryStore) -> None:
    first = [(1, 1, 10, 0), (2, 1, 10, 0), (1, 1, 20, 0)]
    assert store.append(b"ann", events(first)) == Appended(stored=3, duplicates=0)
    again = [(1, 7, 10, 0), (1, 1, 10, 1), (1, 0, 10, 0), (1, 1, 30, 0), (1, 1, 30, 0)]
    assert store.append(b"ann", events(again)) == Appended(stored=3, duplicates=2)
    assert rows(store.read(b"ann")) == [
        *first[:2],
        # On another surface, and what was shown before it was acted on.
        *again[1:3],
        first[2],
        again[3],
    ]
    assert store.append(b"bob", events(first)) == Appended(stored=3, duplicates=0)


def test_an_event_with_an_id_is_stored_once_by_it_whatever_else_it_says(store: LmdbHistoryStore) -> None:
    assert store.append(b"ann", events(many(400))) == Appended(400, 0)
    assert store.append(
        b"ann", identified([(1, 1, 10, 0, "a"), (1, 1, 10, 0, "b"), (1, 1, 500, 0, "a")])
    ) == (2, 1)
    assert store.append(b"ann", identified([(9, 3, 300, 1, "b"), (9, 3, 300, 1, "")])) == (1, 1)
    assert rows(store.read(b"ann"))[10:13] == [many(400)[10], (1, 1, 10, 0), (1, 1, 10, 0)]
    assert len(store.read(b"ann")) == 403


def test_an_event_id_has_a_key_that_an_export_keeps() -> None:
    keys = [event_key(name) for name in (b"a", b"b", b"x" * 256, "ü".encode())]
    assert len(set(keys)) == len(keys)
    assert [event_key(exported_id(key).encode()) for key in [0, *keys]] == [0, *keys]
    with pytest.raises(InvalidEventsError, match=r"^event_id has 257 bytes; allowed: 0 to 256$"):
        event_key(b"x" * 257)


def test_a_deleted_user_is_gone_and_others_stay(path: Path) -> None:
    with LmdbHistoryStore(path, writable=True) as store:
        store.append_all([(user, events(many(300))) for user in (b"ann", b"ann\0", b"bob")])
        assert store.delete(b"ann") == 300
        assert store.delete(b"ann") == store.delete(b"cy") == 0
        assert store.first_users(9) == [b"ann\0", b"bob"]
        assert rows(store.read(b"ann")) == []
        assert b"ann" not in dict(store.histories())
        assert chunks_in(store) == 2 * 3
        # Who comes back begins anew, and nothing is a duplicate of what was deleted.
        assert store.append(b"ann", events(many(2))) == Appended(stored=2, duplicates=0)
        assert rows(store.read(b"ann")) == many(2)
        assert rows(store.read(b"bob")) == rows(store.read(b"ann\0")) == many(300)
