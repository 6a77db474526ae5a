"""The folder in shared memory that a running server holds, named and locked so that what is left is found."""

import fcntl
import glob
import os
import re
import secrets
import shutil
import tempfile
from pathlib import Path

from ensemble.settings import SHARED_MEMORY


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
    for folder in base.parent.iterdir():
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
    for region in SHARED_MEMORY.glob(f"{glob.escape(folder.name)}-*"):
        region.unlink(missing_ok=True)
    # Last, so that an interrupted removal is found and finished by the next start.
    shutil.rmtree(folder, ignore_errors=True)
