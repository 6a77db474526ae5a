"""Other processes that read and write a store."""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ensemble.settings import ROOT

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

APPENDER = """
import sys, time
from pathlib import Path
import numpy as np
from ensemble.stores.history_store import EVENT, StoreError
from ensemble.stores.lmdb_store import LmdbHistoryStore

print("open", flush=True)
path, user, number = Path(sys.argv[1]), sys.argv[2].encode(), 0
while Path(sys.argv[3]).exists():
    try:
        with LmdbHistoryStore(path, writable=True) as store:
            assert len(store.read(user)) == number, (number, len(store.read(user)))
            store.append(user, np.array([(5, 1, number, 0)], EVENT))
            number += 1
        time.sleep(0.02)
    except StoreError as error:
        assert "is being compacted; try again once that is done" in str(error), error
print(number, flush=True)
"""
"""Opens the store, reads its own user, appends an event and closes the store, and rests, as long as a file is
there."""

COMPACTOR = """
import sys
from pathlib import Path
from ensemble.stores.compaction import compact
from ensemble.stores.history_store import StoreError

print("open", flush=True)
done = 0
while Path(sys.argv[2]).exists():
    try:
        compact(Path(sys.argv[1]))
        done += 1
    except StoreError as error:
        assert "is in use; stop the servers" in str(error), error
print(done, flush=True)
"""
"""Compacts the store as often as nobody has it open, as long as a file is there."""


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


def elsewhere(path: Path, statement: str) -> None:
    """Run a statement on `store`, which a process opens to write to."""
    code = f"""
import sys
from pathlib import Path
import numpy as np
from ensemble.stores.history_store import EVENT
from ensemble.stores.lmdb_store import LmdbHistoryStore

with LmdbHistoryStore(Path(sys.argv[1]), writable=True) as store:
    {statement}
"""
    subprocess.run([sys.executable, "-c", code, str(path)], check=True, cwd=ROOT)
