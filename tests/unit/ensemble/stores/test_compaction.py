"""A compacted store holds what it held before, and no byte of what was deleted."""

import struct
import time
from contextlib import ExitStack
from pathlib import Path

import lmdb
import pytest

from ensemble.stores.compaction import FIRST_LAYOUT, compact
from ensemble.stores.history_store import (
    Appended,
    StoreError,
)
from ensemble.stores.lmdb_store import LmdbHistoryStore
from tests.support.store_processes import APPENDER, COMPACTOR, HOLDER, process
from tests.support.stored_events import events, identified, many, rows, written


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


def test_processes_that_open_and_append_while_others_compact_lose_nothing(path: Path, tmp_path: Path) -> None:
    written(path, b"bob", 2_000)
    going = tmp_path / "going"
    going.touch()
    with ExitStack() as stack:
        appenders = [
            stack.enter_context(process(APPENDER, path, user, str(going))) for user in ("ann", "cy", "di")
        ]
        compactors = [stack.enter_context(process(COMPACTOR, path, str(going))) for _ in range(2)]
        time.sleep(3.0)
        going.unlink()
        ended = [running.communicate(timeout=60) for running in (*appenders, *compactors)]
    assert [errors for _, errors in ended] == [""] * 5
    *appended, one, other = (int(out) for out, _ in ended)
    assert min(appended) > 0
    assert one + other > 0
    with LmdbHistoryStore(path) as store:
        assert [len(store.read(user)) for user in (b"ann", b"cy", b"di")] == appended
        assert rows(store.read(b"bob")) == many(2_000)
