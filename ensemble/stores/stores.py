"""Which stores a deployment has."""

from importlib import import_module
from pathlib import Path
from typing import cast

from ensemble.settings import ServingSettings
from ensemble.stores.catalogue_store import CatalogueStore
from ensemble.stores.history_store import HistoryStore, StoreError
from ensemble.stores.lmdb_store import LmdbHistoryStore


def has_histories(settings: ServingSettings) -> bool:
    """Return whether there is a store of histories to be read; a server's is there even while it is away."""
    return settings.histories_url is not None or settings.histories.exists()


def open_histories(settings: ServingSettings) -> HistoryStore | None:
    """Return the store to read the latest `max_stored_events` of each user from, or None where nothing is
    there. Raises `StoreError` if something else is there, or it cannot be opened."""
    if not has_histories(settings):
        return None
    return _on_server(settings, writable=False) or LmdbHistoryStore(
        settings.histories, most_events=settings.max_stored_events
    )


def writable_histories(settings: ServingSettings) -> HistoryStore:
    """Return the store to write to, which is made unless it is there. Raises `StoreError` if it cannot be
    written to."""
    return _on_server(settings, writable=True) or LmdbHistoryStore(
        settings.histories, writable=True, most_events=settings.max_stored_events
    )


def make_histories(settings: ServingSettings) -> None:
    """Make a store unless there is one. Raises `StoreError` if it cannot be written to."""
    writable_histories(settings).close()


def _on_server(settings: ServingSettings, *, writable: bool) -> HistoryStore | None:
    if settings.histories_url is None:
        return None
    try:
        store = import_module("ensemble.stores.redis.store").RedisHistoryStore
    except ModuleNotFoundError as error:
        raise StoreError(
            f"UNIPINREC_HISTORIES_URL is set, and {error.name} is not installed; the extra `redis` has it: "
            "pip install 'unipinrec[redis]'"
        ) from error
    url = settings.histories_url.get_secret_value()
    return cast(HistoryStore, store(url, writable=writable, most_events=settings.max_stored_events))


def make_catalogue(path: Path) -> None:
    """Make a catalogue at `path` unless there is one. Raises `StoreError` if it cannot be written to."""
    CatalogueStore(path, writable=True)
