"""The `update_items` node: adds, updates and removes items while the bundle is served.

The requests of a batch are one transaction, which is synced once before any of them is answered.
"""

import logging
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter, Gauge

from ensemble.arrays import PADDING
from ensemble.executors.item_embedder import BundleEmbedder
from ensemble.loaded_bundle import LoadedBundle
from ensemble.nodes.checks import CHECK_ONLY, REMOVE, check_updates
from ensemble.nodes.contract import Arrays, InvalidInputError
from ensemble.nodes.metrics import with_series
from ensemble.settings import ServingSettings
from ensemble.stores.catalogue_store import CatalogueStore, Item
from ensemble.stores.catalogue_writer import OUTCOMES, CatalogueFullError, CatalogueWriter, Updated
from ensemble.stores.served_items import ServedItems

FOLLOW_S = 0.02
"""Seconds between two looks at what other bundles' nodes have written."""
UNCHANGED = Updated("unchanged", 0)

log = logging.getLogger(__name__)


class Change(NamedTuple):
    """What a caller wants of an item."""

    item_id: int
    operation: bytes
    item: Item | None
    """What it is, where it is added or updated."""


class Told(NamedTuple):
    """What a caller is told of an item."""

    updated: Updated
    unknown_attributes: int


class UpdateItemsNode:
    """Writes to the catalogue that the other nodes read."""

    def __init__(self, loaded: LoadedBundle, settings: ServingSettings) -> None:
        """Take over for this bundle what is in the catalogue. Raises `StoreError` if it cannot be written to,
        and `CatalogueFullError` if it holds too many items that the bundle does not have."""
        torch.set_num_threads(settings.threads)
        self._content_dim = loaded.manifest.content_dim
        self._is_open = settings.update_items
        self._embedder = BundleEmbedder(loaded)
        store = CatalogueStore.open(settings.catalogue, writable=True)
        items = ServedItems.open(loaded, settings)
        most = settings.max_added_items
        self._writer = CatalogueWriter(loaded, store, items, self._embedder, most)
        self.metrics = CollectorRegistry()
        text = "Items that callers have changed, by what became of them"
        updated = Counter("unipinrec_updated_items", text, ["outcome"], registry=self.metrics)
        self._updated = with_series(updated, OUTCOMES)
        text = "Rows that added and updated items take, and the most that they may take"
        rows = Gauge("unipinrec_added_item_rows", text, ["kind"], registry=self.metrics)
        rows.labels("taken").set_function(lambda: self._writer.rows)
        rows.labels("allowed").set(most)
        self._stopped = threading.Event()
        self._follower = threading.Thread(target=self._follow, name="follower", daemon=True)
        self._follower.start()

    def parse(self, arrays: Arrays) -> list[Change]:
        """Return the changes of one request. Raises `InvalidInputError` for what is not allowed, and for
        everything but checks where the settings do not let callers change items."""
        check_updates(arrays, self._content_dim)
        operation_B = arrays["OPERATION"][:, 0]
        if not self._is_open and (operation_B != CHECK_ONLY).any():
            raise InvalidInputError("update_items is off; allowed: with UNIPINREC_UPDATE_ITEMS=true")
        return [_change(arrays, place) for place in range(len(operation_B))]

    def run(self, rows: Sequence[Change]) -> list[Told]:
        """Return what became of each change, once all are on disk and every node sees them. Raises
        `InvalidInputError` if the catalogue is full and `StoreError` if it fails; nothing is stored then."""
        changes = [(row.item_id, row.item) for row in rows if row.operation != CHECK_ONLY]
        try:
            updates = iter(self._writer.update(changes))
        except CatalogueFullError as error:
            raise InvalidInputError(str(error)) from error
        told = []
        for row in rows:
            updated = UNCHANGED
            if row.operation != CHECK_ONLY:
                updated = next(updates)
                self._updated.labels(updated.outcome).inc()
            unknown = 0 if row.item is None else self._embedder.unknown_attributes(row.item)
            told.append(Told(updated, unknown))
        return told

    def pack(self, rows: Sequence[Told]) -> dict[str, NDArray[Any]]:
        """Return the node's output tensors for one request."""
        return {
            "OUTCOME": np.array([[row.updated.outcome.encode()] for row in rows], np.object_),
            "VERSION": np.array([[row.updated.version] for row in rows], np.int64),
            "UNKNOWN_ATTRIBUTES": np.array([[row.unknown_attributes] for row in rows], np.int64),
        }

    def close(self) -> None:
        """Let another process write for the bundle."""
        self._stopped.set()
        self._follower.join()
        self._writer.close()

    def _follow(self) -> None:
        while not self._stopped.wait(FOLLOW_S):
            try:
                self._writer.take_over()
            except Exception:  # What has been taken over is served on.
                log.exception("changes of items were not taken over")


def _change(arrays: Arrays, place: int) -> Change:
    operation, item = arrays["OPERATION"][place, 0], None
    if operation not in (REMOVE, CHECK_ONLY):
        attributes = arrays["ATTRIBUTES"][place] if "ATTRIBUTES" in arrays else np.empty(0, np.int64)
        content = arrays["CONTENT"][place] if "CONTENT" in arrays else np.empty(0, np.float32)
        title = arrays["TITLE"][place, 0] if "TITLE" in arrays else b""
        known = np.unique(attributes[attributes != PADDING])
        numbers = content.tolist() if content.any() else ()
        item = Item(tuple(known.tolist()), tuple(numbers), title.decode())
    return Change(int(arrays["ITEM_ID"][place, 0]), operation, item)
