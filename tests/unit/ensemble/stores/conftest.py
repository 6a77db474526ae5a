"""A store for one test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ensemble.stores.lmdb_store import LmdbHistoryStore


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "stores" / "histories"


@pytest.fixture
def store(path: Path) -> Iterator[LmdbHistoryStore]:
    with LmdbHistoryStore(path, writable=True) as store:
        yield store
