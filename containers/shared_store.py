"""A store of histories that a container and this host use at once."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from safetensors.numpy import load_file

from ensemble.stores.history_store import EVENT
from ensemble.stores.lmdb_store import LmdbHistoryStore
from unipinrec.bundle import ITEMS

NAME = "histories"
"""Of the store in the folder that the compose file mounts at /stores."""
KNOWN_USER = "someone with a history"
EVENTS = 5
FIRST_TIME = 1_700_000_000


@contextmanager
def shared_store() -> Iterator[Path]:
    """Yield a folder with an empty store, which a container may write to as any user; removed at the end."""
    with TemporaryDirectory(prefix="unipinrec-stores-") as name:
        folder = Path(name)
        with LmdbHistoryStore(folder / NAME, writable=True):
            pass
        for path in (folder, folder / NAME):
            path.chmod(0o777)
        for path in (folder / NAME).iterdir():
            path.chmod(0o666)
        yield folder


def append_known_user(folder: Path, bundle: Path) -> None:
    """Append a history of items of the bundle for `KNOWN_USER`."""
    events = np.zeros(EVENTS, EVENT)
    events["item_id"] = load_file(bundle / ITEMS)["item_id_V"][:EVENTS]
    events["actions"] = 1
    events["timestamp"] = FIRST_TIME + np.arange(EVENTS)
    with LmdbHistoryStore(folder / NAME, writable=True) as store:
        store.append(KNOWN_USER.encode(), events)
