"""What a folder has to be to be opened as a store, and who may read it."""

import os
from pathlib import Path

import lmdb
import pytest

from ensemble.owners import owners_of
from ensemble.settings import ServingSettings
from ensemble.stores.deletion_notices import NOTICES
from ensemble.stores.history_store import (
    StoreError,
)
from ensemble.stores.lmdb_store import LmdbHistoryStore
from ensemble.stores.stores import open_histories
from tests.support.store_processes import elsewhere
from tests.support.stored_events import many, rows, written


def test_a_store_that_does_not_exist_is_not_made_by_reading(path: Path) -> None:
    with pytest.raises(StoreError, match=rf"^{path} is no history store; `unipinrec store` makes one"):
        LmdbHistoryStore(path)
    assert not path.exists()
    assert open_histories(ServingSettings(histories=path)) is None


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


def test_a_store_from_before_deletions_left_notices_gets_them_by_its_next_writer(path: Path) -> None:
    with lmdb.open(str(written(path, b"ann", 2)), max_dbs=1) as environment:
        notices = environment.open_db(NOTICES)
        with environment.begin(write=True) as transaction:
            transaction.drop(notices)
    with LmdbHistoryStore(path) as reader:
        assert reader.deleted_after(0) == []
        elsewhere(path, "store.delete(b'ann')")
        assert reader.deleted_after(0) == [(1, owners_of(b"ann"))]
