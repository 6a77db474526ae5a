"""Which stores a deployment has."""

from pathlib import Path

from ensemble.stores.catalogue_store import CatalogueStore
from ensemble.stores.history_store import HistoryStore
from ensemble.stores.lmdb_store import MOST_EVENTS, LmdbHistoryStore


def open_histories(path: Path, most_events: int = MOST_EVENTS) -> HistoryStore | None:
    """Return the store at `path` to read the latest `most_events` of each user from, or None where nothing is
    there. Raises `StoreError` if something else is there, or it cannot be opened."""
    return LmdbHistoryStore(path, most_events=most_events) if path.exists() else None


def make_histories(path: Path) -> None:
    """Make a store at `path` unless there is one. Raises `StoreError` if it cannot be written to."""
    LmdbHistoryStore(path, writable=True).close()


def make_catalogue(path: Path) -> None:
    """Make a catalogue at `path` unless there is one. Raises `StoreError` if it cannot be written to."""
    CatalogueStore(path, writable=True)
