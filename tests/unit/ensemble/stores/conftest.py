"""Stores for one test, of every kind that keeps histories by the same rules."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from ensemble.stores.lmdb_store import LmdbHistoryStore
from ensemble.stores.redis.store import RedisHistoryStore
from tests.support.redis_servers import RedisServer, redis_server

OpenStore = Callable[..., Any]
"""Opens the store of a test, as both kinds do: `writable` and `most_events`."""
Fresh = Callable[[], AbstractContextManager[OpenStore]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "stores" / "histories"


@pytest.fixture(scope="session")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server that tests share and neither stop nor expect anything of."""
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="session", params=["lmdb", "redis"])
def fresh(request: pytest.FixtureRequest) -> Fresh:
    """Makes an empty store of each kind, as often as a test wants."""
    if request.param == "lmdb":
        return _fresh_folder
    return lambda: _fresh_server(request.getfixturevalue("redis"))


@pytest.fixture
def open_store(fresh: Fresh) -> Iterator[OpenStore]:
    with fresh() as opened:
        yield opened


@pytest.fixture
def store(open_store: OpenStore) -> Iterator[Any]:
    with open_store(writable=True) as store:
        yield store


@contextmanager
def _fresh_folder() -> Iterator[OpenStore]:
    with TemporaryDirectory(dir="/dev/shm") as folder:
        yield lambda **chosen: LmdbHistoryStore(Path(folder) / "histories", **chosen)


@contextmanager
def _fresh_server(server: RedisServer) -> Iterator[OpenStore]:
    with server.client as client:
        client.flushall()
    yield lambda **chosen: RedisHistoryStore(server.url, **chosen)
