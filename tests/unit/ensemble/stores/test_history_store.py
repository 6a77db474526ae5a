"""Stored histories come back as they were written, each event once."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemble.owners import owners_of
from ensemble.stores.history_store import (
    EVENT,
    Appended,
    Events,
    HistoryStore,
    InvalidEventsError,
    StoreError,
    event_key,
    exported_id,
)
from tests.support.stored_events import EXTREMES, Event, events, identified, many, rows
from tests.unit.ensemble.stores.conftest import Fresh, OpenStore


def test_every_history_is_read_as_it_was_written(open_store: OpenStore) -> None:
    stored = {b"ann": EXTREMES, "Ünïcode 用户".encode(): many(1), b"x" * 256: many(3000)}
    stored |= {b"ann\0": many(2), b"\0": many(3), b"\xff\xfe": many(4), b"a b\r\n$1 {*}": many(5)}
    with open_store(writable=True) as store:
        for user_id, expected in stored.items():
            store.append(user_id, events(expected))
    with open_store() as store:
        for user_id, expected in stored.items():
            assert rows(store.read(user_id)) == expected
        asked = [*stored, b"nobody", b"", *stored]
        assert [rows(found) for found in store.read_all(asked)] == [stored.get(name, []) for name in asked]
        assert store.first_users(10) == sorted(stored)
        assert store.first_users(3) == [b"\0", b"a b\r\n$1 {*}", b"ann"]


@pytest.mark.parametrize("user_id", [b"", b"an", b"anna", b"ANN", b"ann\0", b"\xff", b"x" * 256, b"x" * 600])
def test_an_unknown_user_has_no_events(store: HistoryStore, user_id: bytes) -> None:
    store.append(b"ann", events(many(2)))
    assert rows(store.read(user_id)) == []


def test_a_user_who_is_given_no_events_is_not_stored(store: HistoryStore) -> None:
    store.append(b"ann", events([]))
    assert store.first_users(1) == []


def test_later_events_come_behind_and_late_ones_in_order_of_time(store: HistoryStore) -> None:
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
    store: HistoryStore, user_id: bytes, message: str
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
    store: HistoryStore, row: Event, message: str
) -> None:
    wide = np.dtype([(name, "<i8") for name in EVENT.names or ()])
    store.append(b"ann", events(many(2)))
    with pytest.raises(InvalidEventsError, match=message):
        store.append(b"ann", np.array([*many(2), row], wide))
    assert rows(store.read(b"ann")) == many(2)


def test_a_refused_user_leaves_no_other_behind(store: HistoryStore) -> None:
    histories = [(b"ann", events(many(2))), (b"x" * 257, events(many(2)))]
    with pytest.raises(InvalidEventsError, match="257 bytes"):
        store.append_all(histories)
    assert store.first_users(9) == []
    store.append(b"bob", events(many(3)))
    with pytest.raises(InvalidEventsError, match="257 bytes"):
        store.replace_all(lambda: histories)
    assert store.first_users(9) == [b"bob"]


def test_many_are_appended_to_in_one_step_and_counted(store: HistoryStore) -> None:
    store.append(b"ann", events(many(2)))
    assert store.append_all(
        [(b"ann", events(many(3, first=2))), (b"bob", events(many(4))), (b"cy", events([]))]
    ) == [(3, 0), (4, 0), (0, 0)]
    assert rows(store.read(b"ann")) == many(5)
    assert rows(store.read(b"bob")) == many(4)


def test_replacing_leaves_nobody_of_before(store: HistoryStore) -> None:
    store.append_all([(user, events(many(9))) for user in (b"ann", b"bob")])
    assert store.replace_all(lambda: iter([(b"bob", events(many(2))), (b"cy", events(many(1)))])) == (2, 3)
    assert store.first_users(9) == [b"bob", b"cy"]
    assert rows(store.read(b"bob")) == many(2)


def test_columns_of_other_integer_types_and_in_another_order_are_converted(store: HistoryStore) -> None:
    wide = np.dtype([(name, ">i8") for name in ("surface", "timestamp", "item_id", "actions")])
    store.append(b"ann", np.array([(3, 9, 1, 2)], wide))
    assert rows(store.read(b"ann")) == [(1, 2, 9, 3)]


def test_what_was_read_stays_valid_after_the_store_is_closed(open_store: OpenStore) -> None:
    with open_store(writable=True) as writer:
        writer.append(b"ann", events(many(50)))
    store = open_store()
    found = store.read(b"ann")
    store.close()
    assert rows(found) == many(50)


def test_an_event_without_an_id_is_stored_once_by_item_time_and_surface(store: HistoryStore) -> None:
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


def test_an_event_with_an_id_is_stored_once_by_it_whatever_else_it_says(store: HistoryStore) -> None:
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


def test_a_deleted_user_is_gone_and_others_stay(open_store: OpenStore) -> None:
    with open_store(writable=True) as store:
        store.append_all([(user, events(many(300))) for user in (b"ann", b"ann\0", b"bob")])
        assert store.delete(b"ann") == 300
        assert store.delete(b"ann") == store.delete(b"cy") == 0
        assert store.first_users(9) == [b"ann\0", b"bob"]
        assert rows(store.read(b"ann")) == []
        assert b"ann" not in dict(store.histories())
        # Who comes back begins anew, and nothing is a duplicate of what was deleted.
        assert store.append(b"ann", events(many(2))) == Appended(stored=2, duplicates=0)
        assert rows(store.read(b"ann")) == many(2)
        assert rows(store.read(b"bob")) == rows(store.read(b"ann\0")) == many(300)


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
    fresh: Fresh, blocks: list[tuple[bytes, int, int, int, int, bool]], most: int
) -> None:
    """Against sorting a dictionary of all events."""
    unions: dict[bytes, dict[object, Event]] = {}
    with fresh() as open_store:
        with open_store(writable=True, most_events=most) as store:
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
        with open_store(most_events=most) as store:
            assert store.first_users(9) == sorted(unions)
            for user, union in unions.items():
                found, right = rows(store.read(user)), sorted(union.values(), key=lambda event: event[2])
                assert len(found) == min(len(right), most)
                # Of the oldest second that is kept, which events are depends on which have been dropped.
                cut = found[0][2] if len(right) > most else -1
                assert [e for e in found if e[2] > cut] == [e for e in right[-most:] if e[2] > cut]
                assert found[0][2] == right[-most:][0][2]


def test_the_latest_stay_and_what_is_older_than_all_of_them_is_not_stored(open_store: OpenStore) -> None:
    with open_store(writable=True, most_events=300) as store:
        for first in range(0, 2_000, 40):
            store.append(b"ann", events(many(40, first)))
        assert store.append(b"ann", events(many(5))) == Appended(stored=0, duplicates=0)
        assert rows(store.read(b"ann")) == many(300, first=1_700)
    with open_store(writable=True, most_events=10) as store:
        store.append(b"ann", events(many(1, first=2_000)))
        assert rows(store.read(b"ann")) == many(10, first=1_991)


def test_what_another_system_has_is_merged_under_whatever_id(store: HistoryStore) -> None:
    store.append(b"ann", identified([(1, 1, 10, 0, "a"), (2, 1, 20, 0, "")]))
    others = identified([(1, 7, 10, 0, ""), (2, 1, 20, 0, "b"), (3, 1, 30, 0, "a")])
    assert store.merge_all([(b"ann", others), (b"bob", others)]) == [(1, 2), (3, 0)]
    assert [event[0] for event in rows(store.read(b"ann"))] == [1, 2, 3]


def test_all_histories_are_gone_through_with_the_keys_of_their_ids(store: HistoryStore) -> None:
    users = {b"%03d" % number: identified([(number, 1, 10, 0, "a")]) for number in range(700)}
    store.append_all(list(users.items()))
    found = dict(store.histories())
    assert list(found) == sorted(users)
    assert all(events["event_id"].tolist() == [event_key(b"a")] for events in found.values())


def test_the_same_user_may_be_appended_to_twice_in_one_step(store: HistoryStore) -> None:
    store.append(b"ann", events(many(200)))
    parts: Sequence[tuple[bytes, Events]] = [
        (b"ann", events(many(100, first=150))),
        (b"ann", identified([(1, 1, 5, 0, "a")])),
        (b"ann", events(many(200, first=100))),
    ]
    assert store.append_all(parts) == [(50, 50), (1, 0), (50, 150)]
    assert len(store.read(b"ann")) == 301


def test_a_deletion_leaves_a_notice_of_what_may_stand_for_the_user(store: HistoryStore) -> None:
    assert store.deleted_after(0) == []
    for user in (b"ann", b"bob", b"ann"):
        store.delete(user)
    found = store.deleted_after(0)
    assert [notice.owners for notice in found] == [owners_of(user) for user in (b"ann", b"bob", b"ann")]
    numbers = [notice.number for notice in found]
    assert 0 < numbers[0] < numbers[1] < numbers[2]
    assert store.deleted_after(numbers[0]) == found[1:]


def test_who_reads_cannot_write(open_store: OpenStore) -> None:
    with open_store(writable=True):
        pass
    with open_store() as store, pytest.raises(StoreError, match="read-only"):
        store.append(b"ann", events(many(1)))
