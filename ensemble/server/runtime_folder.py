"""The folder in shared memory that a running server holds, named and locked so that what is left is found."""

import fcntl
import glob
import os
import re
import secrets
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil

from ensemble.server import reaper
from ensemble.settings import SHARED_MEMORY

POLL_S = 0.1


def claim_folder(base: Path) -> tuple[Path, int]:
    """Make `<base>-<pid>-<random>` for this user alone; return it and a file descriptor that locks it."""
    draft = Path(tempfile.mkdtemp(prefix=f".{base.name}-", dir=base.parent))
    lock = os.open(draft, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    # Under its final name the folder is locked from the first moment: no start takes it for abandoned.
    folder = draft.rename(base.with_name(f"{base.name}-{os.getpid()}-{secrets.token_hex(4)}"))
    return folder, lock


def remove_abandoned(base: Path) -> None:
    """Remove folders of `claim_folder` whose launcher, server and nodes have all ended."""
    ours = re.compile(re.escape(base.name) + r"-\d+-[0-9a-f]{8}")
    for folder in base.parent.iterdir() if base.parent.is_dir() else ():
        if not ours.fullmatch(folder.name):
            continue
        try:
            if folder.lstat().st_uid != os.getuid():
                continue
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:
            # A region of shared memory, another user's folder, or one that has gone meanwhile.
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove_folder(folder)
        except BlockingIOError:
            continue
        finally:
            os.close(lock)


def remove_folder(folder: Path) -> None:
    """Remove a folder of `claim_folder` and the server's shared memory that bears its name."""
    reaper.remove_folder(folder, SHARED_MEMORY)


def await_abandoned(base: Path, timeout_s: float = 10.0) -> None:
    """Wait until servers whose launcher was killed have ended, as `reaper.py` sees to, and remove what they
    left."""
    deadline = time.monotonic() + timeout_s
    remove_abandoned(base)
    while time.monotonic() < deadline and any(not psutil.pid_exists(pid) for pid in _launchers(base)):
        time.sleep(POLL_S)
        remove_abandoned(base)


def _launchers(base: Path) -> list[int]:
    """The process ids in the names of this user's folders."""
    ours = re.compile(re.escape(base.name) + r"-(\d+)-[0-9a-f]{8}")
    found = []
    for folder in base.parent.glob(f"{glob.escape(base.name)}-*"):
        with suppress(OSError):
            if (match := ours.fullmatch(folder.name)) and folder.lstat().st_uid == os.getuid():
                found.append(int(match[1]))
    return found
