"""Stored histories come back as they were written, and nobody else's."""

import struct
from pathlib import Path

import lmdb
import numpy as np
import pytest
from numpy.typing import NDArray

from unipinrec.history_store import EVENT, HistoryStore, write_histories

Event = tuple[int, int, int, int]

EXTREMES: list[Event] = [
    (0, 0, 0, 0),
    (2**62, 2**32 - 1, 253_402_300_799, 2**31 - 1),
    (-(2**63), -1, -1, -(2**31)),
]


def events(rows: list[Event]) -> NDArray[np.void]:
    return np.array(rows, EVENT)


def many(count: int) -> list[Event]:
    return [(7 * n, n % 8, 1_700_000_000 + n, n % 3) for n in range(count)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "histories.mdb"


def test_every_history_is_read_as_it_was_written(path: Path) -> None:
    written = {"ann": EXTREMES, "bob": [], "Ünïcode 用户": many(1), "x" * 256: many(3000)}
    written |= {"ann\0": many(2), "\0": many(3)}
    pairs = [(user_id, events(rows)) for user_id, rows in written.items()]
    assert write_histories(path, pairs, users=6, events=4000) == 6
    with HistoryStore(path) as store:
        for user_id, rows in written.items():
            found = store.read(user_id.encode())
            assert found.dtype == EVENT
            assert [tuple(event) for event in found.tolist()] == rows


def test_an_event_is_28_bytes_little_endian_without_gaps(path: Path) -> None:
    write_histories(path, [("ann", events(EXTREMES))], users=4, events=4000)
    with (
        lmdb.open(str(path), subdir=False, readonly=True, lock=False) as environment,
        environment.begin() as transaction,
    ):
        stored = transaction.get(b"ann")
    assert stored == b"".join(struct.pack("<qqqi", *event) for event in EXTREMES)


@pytest.mark.parametrize(
    "user_id", [b"", b"an", b"anna", b"ANN", b"ann\x00", b"\xff\xfe", b"x" * 256, b"x" * 600]
)
def test_an_unknown_user_has_no_events(path: Path, user_id: bytes) -> None:
    write_histories(path, [("ann", events(many(2)))], users=4, events=4000)
    with HistoryStore(path) as store:
        found = store.read(user_id)
    assert found.dtype == EVENT
    assert found.shape == (0,)


@pytest.mark.parametrize(
    ("user_id", "message"),
    [
        ("", r"^user_id '' has 0 bytes; allowed: 1 to 256$"),
        ("x" * 257, rf"^user_id '{'x' * 257}' has 257 bytes; allowed: 1 to 256$"),
        ("ü" * 129, rf"^user_id '{'ü' * 129}' has 258 bytes; allowed: 1 to 256$"),
    ],
)
def test_a_user_id_without_bytes_or_with_too_many_is_refused(path: Path, user_id: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_histories(path, [("ann", events([])), (user_id, events([]))], users=4, events=4000)


def test_a_refused_user_leaves_no_other_behind(path: Path) -> None:
    with pytest.raises(ValueError, match="257 bytes"):
        write_histories(path, [("ann", events(many(2))), ("x" * 257, events([]))], users=4, events=4000)
    with HistoryStore(path) as store:
        assert len(store.read(b"ann")) == 0


def test_what_was_read_stays_valid_after_the_store_is_closed(path: Path) -> None:
    write_histories(path, [("ann", events(many(50)))], users=4, events=4000)
    store = HistoryStore(path)
    found = store.read(b"ann")
    store.close()
    assert [tuple(event) for event in found.tolist()] == many(50)


def test_reading_leaves_the_file_as_it_is_and_adds_none(path: Path) -> None:
    write_histories(path, [("ann", events(many(50)))], users=4, events=4000)
    before = path.read_bytes()
    with HistoryStore(path) as store:
        store.read(b"ann")
        store.read(b"nobody")
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_columns_of_other_integer_types_are_converted(path: Path) -> None:
    wide = np.dtype([(name, "<i8") for name in ("item_id", "actions", "timestamp", "surface")])
    write_histories(path, [("ann", np.array(many(3), wide))], users=4, events=4000)
    with HistoryStore(path) as store:
        assert [tuple(event) for event in store.read(b"ann").tolist()] == many(3)


def test_a_store_that_does_not_exist_is_not_made(path: Path) -> None:
    with pytest.raises(lmdb.Error, match="No such file"):
        HistoryStore(path)
    assert not path.exists()
