"""What histories cost in Redis, by how many events a user has: memory, append-only file, milliseconds.

`UNIPINREC_HISTORIES_URL=redis://… python -m benchmarks.redis_histories OUT.json`, on a database of its own,
which must be empty and is left so. Start the server with `--auto-aof-rewrite-percentage 0`, lest it makes the
file smaller meanwhile.
"""

import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from redis import Redis

from ensemble.settings import ServingSettings
from ensemble.stores.history_store import IDENTIFIED, Events, in_steps
from ensemble.stores.redis.store import RedisHistoryStore

LENGTHS = (10, 100, 1_000, 10_000)
EVENTS = 2_000_000
"""Of all users together."""
CALLS = 200


def measure(url: str, tell: Callable[[str], None]) -> dict[str, Any]:
    """Return the measurements of each length. Raises `StoreError` if the server fails, and `ValueError` if
    its database is not empty."""
    with Redis.from_url(url) as redis, RedisHistoryStore(url, writable=True) as store:
        if redis.dbsize():
            raise ValueError("the database is not empty; allowed: one of its own")
        found = {}
        for length in LENGTHS:
            found[str(length)] = row = _measure(redis, store, length)
            tell(f"{length} events a user: {row}")
            store.replace_all(list)
            redis.flushdb()
        server = redis.info("server")["redis_version"]
        synced = redis.config_get("appendfsync")["appendfsync"]
    return {"server": server, "appendfsync": synced, "events": EVENTS, "by events of a user": found}


def _measure(redis: Any, store: RedisHistoryStore, length: int) -> dict[str, float]:
    users = EVENTS // length
    memory, written = _used(redis)
    for step in in_steps((b"user-%09d" % user, _events(length)) for user in range(users)):
        store.append_all(step)
    filled, imported = _used(redis)
    numbers = np.random.default_rng(0).integers(users, size=CALLS).tolist()
    reads = [_ms(partial(store.read, b"user-%09d" % user)) for user in numbers]
    appends = [_ms(partial(store.append, b"user-%09d" % user, _events(1, length))) for user in numbers]
    _, appended = _used(redis)
    return {
        "bytes of memory an event": round((filled - memory) / EVENTS, 1),
        "bytes of the append-only file an event, imported": round((imported - written) / EVENTS, 1),
        "bytes of the append-only file an append of one event": round((appended - imported) / CALLS),
        "ms to read a user, median": round(median(reads), 2),
        "ms to append an event, median": round(median(appends), 2),
    }


def _used(redis: Any) -> tuple[int, int]:
    return redis.info("memory")["used_memory"], redis.info("persistence")["aof_current_size"]


def _events(count: int, first: int = 0) -> Events:
    events = np.zeros(count, IDENTIFIED)
    events["item_id"] = np.arange(count)
    events["actions"] = 1
    events["timestamp"] = 1_700_000_000 + 60 * (first + np.arange(count))
    return events


def _ms(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return 1_000 * (time.perf_counter() - began)


if __name__ == "__main__":
    url = ServingSettings().histories_url
    if url is None or len(sys.argv) != 2:
        sys.exit(__doc__)
    Path(sys.argv[1]).write_text(json.dumps(measure(url.get_secret_value(), print), indent=1) + "\n")
