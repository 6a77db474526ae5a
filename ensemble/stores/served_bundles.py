"""Which bundles are served with a catalogue: processes that do so hold a lock on a file of the bundle, whose
content is the bundle's folder, until they end."""

import fcntl
import os
from pathlib import Path

ENDING = ".served"


def claim_bundle(catalogue: Path, bundle_id: str, folder: Path) -> int:
    """Return the open file that tells of a bundle, until it is closed."""
    descriptor = os.open(catalogue / f"{bundle_id}{ENDING}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    content = os.fsencode(folder)
    os.pwrite(descriptor, content, 0)
    os.ftruncate(descriptor, len(content))
    return descriptor


def served_bundles(catalogue: Path) -> dict[str, Path]:
    """Return the folders of the bundles that are served, by their ids."""
    found = {}
    for path in catalogue.glob(f"*{ENDING}"):
        with path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                found[path.name.removesuffix(ENDING)] = Path(os.fsdecode(file.read()))
    return found
