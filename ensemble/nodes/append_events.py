"""The `append_events` node: adds events to stored histories.

The requests of a batch are one transaction, which is synced once before any of them is answered.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter

from ensemble.arrays import PADDING
from ensemble.loaded_bundle import LoadedBundle
from ensemble.nodes.checks import check_append
from ensemble.nodes.contract import Arrays, InvalidInputError
from ensemble.nodes.metrics import with_series
from ensemble.settings import ServingSettings
from ensemble.stores.history_store import IDENTIFIED, Appended, Events, HistoryStore, event_key
from ensemble.stores.stores import writable_histories

OUTCOMES = ("stored", "duplicate", "too old")


class AppendEventsNode:
    """Writes to the store that `history` reads."""

    def __init__(self, loaded: LoadedBundle, settings: ServingSettings) -> None:
        """Raises `StoreError` if there is no store and none can be made."""
        self._model = loaded.manifest.model
        self._max_events = settings.max_events
        self._store: HistoryStore | None = None
        if settings.append_events:
            self._store = writable_histories(settings)
        self.metrics = CollectorRegistry()
        text = "Events that callers have appended, by what became of them"
        appended = Counter("unipinrec_appended_events", text, ["outcome"], registry=self.metrics)
        self._appended = with_series(appended, OUTCOMES)

    def parse(self, arrays: Arrays) -> list[tuple[bytes, Events]]:
        """Return the id and the events of each user of one request. Raises `InvalidInputError` for what is
        not allowed, and for everything where the settings do not let callers append."""
        self._writable()
        check_append(arrays, self._model, max_events=self._max_events)
        return [(user_id, _events(arrays, user)) for user, user_id in enumerate(arrays["USER_ID"][:, 0])]

    def run(self, rows: Sequence[tuple[bytes, Events]]) -> list[Appended]:
        """Return what became of each user's events once all are on disk. Raises `StoreError`, and nothing is
        stored, if the store fails."""
        results = self._writable().append_all(rows)
        given = sum(len(events) for _, events in rows)
        stored = sum(result.stored for result in results)
        duplicates = sum(result.duplicates for result in results)
        counts = (stored, duplicates, given - stored - duplicates)
        for outcome, count in zip(OUTCOMES, counts, strict=True):
            self._appended.labels(outcome).inc(count)
        return results

    def pack(self, rows: Sequence[Appended]) -> dict[str, NDArray[Any]]:
        """Return the node's output tensors for one request."""
        return {
            "STORED": np.array([[row.stored] for row in rows], np.int64),
            "DUPLICATES": np.array([[row.duplicates] for row in rows], np.int64),
        }

    def close(self) -> None:
        """Close the store."""
        if self._store is not None:
            self._store.close()

    def _writable(self) -> HistoryStore:
        if self._store is None:
            raise InvalidInputError("append_events is off; allowed: with UNIPINREC_APPEND_EVENTS=true")
        return self._store


def _events(arrays: Arrays, user: int) -> Events:
    item_id = arrays["ITEM_IDS"][user]
    events = np.zeros(int((item_id != PADDING).sum()), IDENTIFIED)
    events["item_id"] = item_id[: len(events)]
    events["actions"] = arrays["ACTIONS"][user, : len(events)]
    events["timestamp"] = arrays["TIMESTAMPS"][user, : len(events)]
    if "SURFACES" in arrays:
        events["surface"] = arrays["SURFACES"][user, : len(events)]
    if "EVENT_IDS" in arrays:
        events["event_id"] = [event_key(name) for name in arrays["EVENT_IDS"][user, : len(events)]]
    return events
