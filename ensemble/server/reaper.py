"""A small process that outlives the launcher, to end what it leaves.

Linux asks the server to end with its launcher, but a server or a node that is stopped or hangs does not hear
that. It imports nothing else of ours, so that it costs little.
"""

import fcntl
import glob
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

GRACE_S = 1.0
"""For the server, which refuses new requests meanwhile, to end by itself."""
LONGEST_S = 10.0
POLL_S = 0.05


class Reaper:
    """The process, as the launcher sees it: it acts when the launcher has ended, and ends without a word when
    nothing is left."""

    def __init__(self, folder: Path, shared_memory: Path) -> None:
        """`folder` is of `claim_folder`, and locked by all that is to be ended."""
        self._process = subprocess.Popen(
            [sys.executable, "-IS", __file__, str(folder), str(shared_memory)],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )

    def watch(self, group: int) -> None:
        """Name the process group of the server."""
        self._tell(f"{group}\n".encode())

    def dismiss(self) -> None:
        """End it, after what it would remove has gone."""
        self._tell(b"")
        self._process.wait()

    def _tell(self, line: bytes) -> None:
        stream = self._process.stdin
        if stream is not None:
            # Somebody may have ended it.
            with suppress(BrokenPipeError):
                if line:
                    stream.write(line)
                    stream.flush()
                else:
                    stream.close()


def remove_folder(folder: Path, shared_memory: Path) -> None:
    """Remove a runtime folder and the server's regions of shared memory that bear its name."""
    for region in shared_memory.glob(f"{glob.escape(folder.name)}-*"):
        region.unlink(missing_ok=True)
    # Last, so that an interrupted removal is found and finished by the next start.
    shutil.rmtree(folder, ignore_errors=True)


def reap(folder: Path, group: int | None, shared_memory: Path) -> None:
    """Wait until nobody holds the folder, for a grace time and then by killing the group, and remove it."""
    try:
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return
    began = time.monotonic()
    while time.monotonic() - began < LONGEST_S:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            # While somebody holds the lock, the group's number is still the group's.
            if group is not None and time.monotonic() - began > GRACE_S:
                with suppress(ProcessLookupError):
                    os.killpg(group, signal.SIGKILL)
            time.sleep(POLL_S)
        else:
            remove_folder(folder, shared_memory)
            return


if __name__ == "__main__":
    # Ends with the launcher, however that ended.
    said = sys.stdin.read().split()
    reap(Path(sys.argv[1]), int(said[0]) if said else None, Path(sys.argv[2]))
