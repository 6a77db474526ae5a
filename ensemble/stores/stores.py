"""Which store of histories a deployment has."""

from pathlib import Path

from ensemble.stores.history_store import HistoryStore
from ensemble.stores.lmdb_store import LmdbHistoryStore


def open_histories(path: Path) -> HistoryStore | None:
    """Return the store at `path` to read from, or None where nothing is there. Raises `StoreError` if
    something else is there, or it cannot be opened."""
    return LmdbHistoryStore(path) if path.exists() else None
