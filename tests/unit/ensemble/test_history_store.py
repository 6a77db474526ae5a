"""Stored histories come back as they were written, whoever else reads and writes meanwhile."""

import os
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import lmdb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ensemble.settings import ROOT
from ensemble.stores.compaction import FIRST_LAYOUT, compact
from ensemble.stores.event_chunks import CHUNK_EVENTS, CHUNKS
from ensemble.stores.history_store import (
    EVENT,
    Appended,
    Events,
    InvalidEventsError,
    StoreError,
    event_key,
    exported_id,
)
from ensemble.stores.lmdb_store import LmdbHistoryStore
from ensemble.stores.stores import open_histories

Event = tuple[int, int, int, int]

EXTREMES: list[Event] = [(0, 0, 0, 0), (2**63 - 1, 2**32 - 1, 99_999_999_999, 2**31 - 1)]

READER = """
import sys, time
from pathlib import Path
from ensemble.stores.lmdb_store import LmdbHistoryStore

store = LmdbHistoryStore(Path(sys.argv[1]))
print("open", flush=True)
seen = 0
while seen < int(sys.argv[2]):
    times = [store.read(user)["timestamp"].tolist() for user in (b"ann", b"bob")]
    for found in times:
        assert found == list(range(len(found))), found[:9]
    # Both are appended to in one step, and were read one after the other.
    assert seen <= len(times[0]) <= len(times[1]), seen
    seen = len(times[0])
print(seen, flush=True)
"""
"""Reads two users until each has so many events, and fails where it finds others than were written."""

HOLDER = """
import sys
from pathlib import Path
from ensemble.stores.lmdb_store import LmdbHistoryStore

def look(chunks):
    before = [chunks.events(b"%d" % user, 999).tolist() for user in range(20)]
    print("open", flush=True)
    sys.stdin.readline()
    return before == [chunks.events(b"%d" % user, 999).tolist() for user in range(20)]

print(LmdbHistoryStore(Path(sys.argv[1]))._read(look), flush=True)
"""
"""Reads twice in one transaction, as a read does that takes long."""
WRITER = """
import os, sys
from pathlib import Path
import numpy as np
from ensemble.stores.history_store import EVENT
from ensemble.stores.lmdb_store import LmdbHistoryStore

store = LmdbHistoryStore(Path(sys.argv[1]), writable=True)
store.append(b"ann", np.array([(5, 1, 77, 0)], EVENT))
os.kill(os.getpid(), 9)
"""


def events(rows: list[Event]) -> NDArray[np.void]:
    return np.array(rows, EVENT)


def many(count: int, first: int = 0) -> list[Event]:
    return [(7 * n, n % 8, n, n % 3) for n in range(first, first + count)]


def rows(found: NDArray[np.void]) -> list[Event]:
    assert found.dtype == EVENT
    return [tuple(event) for event in found.tolist()]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "stores" / "histories"


@pytest.fixture
def store(path: Path) -> Iterator[LmdbHistoryStore]:
    with LmdbHistoryStore(path, writable=True) as store:
        yield store


def written(path: Path, user_id: bytes, count: int) -> Path:
    with LmdbHistoryStore(path, writable=True) as store:
        store.append(user_id, events(many(count)))
    return path


def append_elsewhere(path: Path) -> int:
    """Returns the exit code of a process that appends one event and is killed at once."""
    return subprocess.run([sys.executable, "-c", WRITER, str(path)], check=False, cwd=ROOT).returncode


@contextmanager
def process(
    code: str, path: Path, *arguments: str, under: Sequence[str] = ()
) -> Iterator[subprocess.Popen[str]]:
    """A process from when it has opened the store."""
    command = [*under, sys.executable, "-c", code, str(path), *arguments]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, text=True, stdin=pipe, stdout=pipe, stderr=pipe) as started:
        assert started.stdout is not None
        assert started.stdout.readline() == "open\n", started.communicate()
        try:
            yield started
        finally:
            started.kill()


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


def test_the_map_grows_as_often_as_it_is_full(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ensemble.stores.lmdb_store.GROWTH_BYTES", 1 << 20)
    with LmdbHistoryStore(path, writable=True) as store:
        for user in range(12):
            store.append(b"%d" % user, events(many(30_000)))
        calls: list[int] = []

        def histories() -> Iterator[tuple[bytes, NDArray[np.void]]]:
            calls.append(1)
            for user in range(40):
                yield b"%d" % user, events(many(30_000))

        assert store.replace_all(histories) == (40, 1_200_000)
        assert len(calls) > 1
    with LmdbHistoryStore(path) as store:
        assert len(store.first_users(99)) == 40
        assert rows(store.read(b"39")) == many(30_000)


def test_readers_in_other_processes_follow_a_writer_and_the_growth_of_the_map(path: Path) -> None:
    """The writer outgrows the map that the readers opened, which then have to take the larger one."""
    steps, block = 30, 1_000
    until = str(steps * block)
    with (
        LmdbHistoryStore(path, writable=True) as store,
        process(READER, path, until) as one,
        process(READER, path, until) as other,
    ):
        for step in range(steps):
            block_of_both = events(many(block, first=step * block))
            store.append_all([(b"ann", block_of_both), (b"bob", block_of_both)])
        for reader in (one, other):
            out, errors = reader.communicate(timeout=60)
            assert (reader.returncode, out) == (0, f"{until}\n"), errors


def test_what_a_reader_still_reads_is_not_overwritten(path: Path) -> None:
    with LmdbHistoryStore(path, writable=True) as store:
        store.append_all([(b"%d" % user, events(many(500))) for user in range(20)])
        with process(HOLDER, path) as holder:
            for first in range(30):
                store.replace_all(
                    lambda first=first: ((b"%d" % user, events(many(500, first))) for user in range(20))
                )
            out, errors = holder.communicate("\n", timeout=60)
            assert (holder.returncode, out) == (0, "True\n"), errors


def test_a_killed_reader_keeps_nothing_from_being_overwritten(path: Path) -> None:
    """Somebody else has the store open, so that its lock file does not begin anew."""
    written(path, b"ann", 1)
    with process(HOLDER, path) as killed, process(HOLDER, path) as other:
        os.kill(killed.pid, signal.SIGKILL)
        killed.wait()
        with LmdbHistoryStore(path, writable=True) as store:
            readers = store._environment.readers().split()
    assert str(other.pid) in readers
    assert str(killed.pid) not in readers


def test_readers_of_two_pid_namespaces_with_one_id_are_told_so(path: Path) -> None:
    """As in two containers, each of which numbers its processes from 1."""
    own_namespace = ("unshare", "--pid", "--fork", "--kill-child")
    if not shutil.which("unshare") or subprocess.run([*own_namespace, "true"], check=False).returncode:
        pytest.skip("needs `unshare --pid`, as root")
    with process(HOLDER, written(path, b"ann", 1), under=own_namespace):
        second = subprocess.run(
            [*own_namespace, sys.executable, "-c", HOLDER, str(path)],
            cwd=ROOT,
            text=True,
            capture_output=True,
            check=False,
        )
    assert second.returncode == 1
    assert f"StoreError: history store {path}: " in second.stderr
    assert second.stderr.endswith("give them one PID namespace\n")


def test_a_reader_sees_what_is_appended_while_it_is_open(path: Path) -> None:
    with LmdbHistoryStore(written(path, b"ann", 3)) as store:
        assert len(store.read(b"ann")) == 3
        assert append_elsewhere(path) == -signal.SIGKILL
        assert rows(store.read(b"ann")) == [*many(3), (5, 1, 77, 0)]


def test_a_reader_cannot_append(path: Path) -> None:
    with (
        LmdbHistoryStore(written(path, b"ann", 1)) as store,
        pytest.raises(StoreError, match=rf"^history store {path}: .*read-only"),
    ):
        store.append(b"ann", events(many(1)))


def test_a_store_that_does_not_exist_is_not_made_by_reading(path: Path) -> None:
    with pytest.raises(StoreError, match=rf"^{path} is no history store; `unipinrec store` makes one"):
        LmdbHistoryStore(path)
    assert not path.exists()
    assert open_histories(path) is None


@pytest.mark.parametrize("writable", [False, True])
@pytest.mark.parametrize("found", ["a file", "a folder of others", "no LMDB", "another table"])
def test_what_is_no_store_is_refused_in_one_line(path: Path, found: str, writable: bool) -> None:
    path.parent.mkdir()
    match found:
        case "a file":
            path.write_text("text")
        case "a folder of others":
            path.mkdir()
            (path / "notes").touch()
        case "no LMDB":
            path.mkdir()
            (path / "data.mdb").write_bytes(b"text" * 5000)
        case "another table":
            with lmdb.open(str(path), max_dbs=1) as other:
                other.open_db(b"something else")
    for _ in range(2):
        with pytest.raises(StoreError, match=str(path)) as refused:
            LmdbHistoryStore(path, writable=writable)
        assert "\n" not in str(refused.value)


def test_an_empty_folder_becomes_a_store_for_a_writer_alone(path: Path) -> None:
    path.mkdir(parents=True)
    with pytest.raises(StoreError, match="is no history store"):
        LmdbHistoryStore(path)
    with LmdbHistoryStore(written(path, b"ann", 2)) as store:
        assert rows(store.read(b"ann")) == many(2)


def test_the_files_of_a_new_store_are_its_owners_alone(path: Path) -> None:
    written(path, b"ann", 1)
    assert path.stat().st_mode & 0o777 == 0o700
    assert {file.name: file.stat().st_mode & 0o777 for file in path.iterdir()} == {
        "data.mdb": 0o600,
        "lock.mdb": 0o600,
    }


def test_a_read_only_file_system_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """LMDB itself would read there without a lock, and what a writer elsewhere is overwriting."""
    found = list(os.statvfs(written(path, b"ann", 1)))
    found[8] |= os.ST_RDONLY
    monkeypatch.setattr("os.statvfs", lambda _: os.statvfs_result(found))
    with pytest.raises(
        StoreError, match=rf"^history store {path} is on a read-only file system; .* writable$"
    ):
        LmdbHistoryStore(path)


def test_a_write_is_on_disk_when_it_returns(path: Path) -> None:
    """The writer is killed before it closes anything."""
    assert append_elsewhere(path) == -signal.SIGKILL
    with LmdbHistoryStore(path, writable=True) as store:
        assert store._environment.flags()["sync"]
        store.append(b"ann", events([(6, 1, 78, 0)]))
        assert rows(store.read(b"ann")) == [(5, 1, 77, 0), (6, 1, 78, 0)]


def identified(rows: list[tuple[int, int, int, int, str]]) -> Events:
    found = [(*row[:4], event_key(row[4].encode())) for row in rows]
    return np.array(found, [*((name, "<i8") for name in EVENT.names or ()), ("event_id", "<u8")])


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


def chunks_in(store: LmdbHistoryStore) -> int:
    with store._environment.begin() as transaction:
        return transaction.stat(store._tables.chunks)["entries"]


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


def test_compaction_leaves_no_byte_of_what_was_deleted(path: Path) -> None:
    ids = identified([(2**62 + 99, 1, 5, 0, "an id")])
    with LmdbHistoryStore(path, writable=True) as store:
        store.append_all([(b"somebody to forget", ids), (b"bob", events(many(300))), (b"cy", ids)])
        for user in range(200):
            store.append(b"%d" % user, events(many(500)))
        for user in range(200):
            store.delete(b"%d" % user)
        store.delete(b"somebody to forget")
        store.delete(b"cy")
        stored = {user: found.tolist() for user, found in store.histories()}
    path.chmod(0o750)
    (path / "data.mdb").chmod(0o640)
    held = (path / "data.mdb").read_bytes()
    before, after = compact(path)
    left = (path / "data.mdb").read_bytes()
    assert len(left) == after < before == len(held)
    for secret in (b"somebody to forget", struct.pack("<q", 2**62 + 99)):
        assert secret in held
        assert secret not in left
    assert (path / "data.mdb").stat().st_mode & 0o777 == 0o640
    assert [other.name for other in path.parent.iterdir()] == [path.name]
    with LmdbHistoryStore(path, writable=True) as store:
        assert {user: found.tolist() for user, found in store.histories()} == stored
        assert store.append(b"bob", events(many(301))) == Appended(stored=1, duplicates=300)


def test_a_store_that_another_process_has_open_is_not_compacted(path: Path) -> None:
    written(path, b"ann", 1)
    before = (path / "data.mdb").stat().st_ino
    with process(HOLDER, path), pytest.raises(StoreError, match=rf"^history store {path} is in use; stop "):
        compact(path)
    assert (path / "data.mdb").stat().st_ino == before
    compact(path)
    assert (path / "data.mdb").stat().st_ino != before


def test_an_older_store_is_refused_until_it_is_compacted(path: Path) -> None:
    path.mkdir(parents=True)
    with lmdb.open(str(path), max_dbs=1) as old, old.begin(write=True) as transaction:
        table = old.open_db(FIRST_LAYOUT, transaction)
        transaction.put(b"ann", events([*many(200), (7 * 199, 7, 199, 1)]).tobytes(), db=table)
    for writable in (False, True):
        with pytest.raises(
            StoreError, match=r"of another layout; `unipinrec store compact` rewrites an older"
        ):
            LmdbHistoryStore(path, writable=writable)
    compact(path)
    with LmdbHistoryStore(path) as store:
        assert rows(store.read(b"ann")) == [*many(200)]
