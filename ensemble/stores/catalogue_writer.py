"""Notes changes of items, and makes rows of them for every bundle that is served.

A change is noted, and becomes a row of these bundles, in one transaction. A bundle that is loaded later, as
beside the serving one, gets rows of all changes before its nodes serve.
"""

import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ensemble.arrays import Int64s
from ensemble.loaded_bundle import LoadedBundle
from ensemble.stores.catalogue_store import CatalogueStore, CatalogueTransaction, Item
from ensemble.stores.served_bundles import served_bundles
from ensemble.stores.served_items import ServedItems
from unipinrec.bundle import BundleError

OUTCOMES = ("added", "updated", "unchanged", "removed", "absent")
TITLES = "titles.jsonl"
"""Beside the tables: titles for whoever shows answers; the last line of an item counts."""

Vectors = Callable[[Sequence[Item], Int64s], tuple[NDArray[np.float32], NDArray[np.float32]]]
"""Makes the model's and the second ranker's vectors of items, given their rows in the bundle or -1."""


class Updated(NamedTuple):
    """What became of a change, which is on disk."""

    outcome: str
    """One of `OUTCOMES`."""
    version: int
    """Number of the item's latest change."""


class CatalogueFullError(Exception):
    """More rows than a deployment lets every query be compared with."""


@dataclass(frozen=True, slots=True)
class BundleRows:
    """What makes rows of one bundle."""

    loaded: LoadedBundle
    items: ServedItems
    vectors: Vectors

    @property
    def added(self) -> int:
        """Rows beside the bundle's."""
        return self.items.rows - self.items.in_bundle

    def row(self, item_id: int) -> int:
        """Return the row that the bundle itself has of an item, or -1."""
        return int(self.items.vocabulary.rows_of(np.array([item_id]))[0])

    def take(self, transaction: CatalogueTransaction, most: int) -> None:
        """Make records of all changes since the last one that the bundle has. Raises `CatalogueFullError` if
        there would be more than `most` rows."""
        bundle_id = self.loaded.id
        taken = transaction.taken().get(bundle_id)
        changes = transaction.changes(after=taken or 0)
        if taken is not None and not changes:
            return
        rows = {item_id: self.row(item_id) for item_id, _ in changes}
        if taken is None:
            # The bundle was made with what was known of its items then.
            made = self.loaded.manifest.created.timestamp() * 1000
            changes = [
                (item_id, change)
                for item_id, change in changes
                if change.item is None or rows[item_id] < 0 or change.time_ms > made
            ]
        added = {item_id: change.item for item_id, change in changes if change.item is not None}
        removed = [
            item_id
            for item_id, change in changes
            if change.item is None and self.items.latest(item_id, rows[item_id]) is not None
        ]
        if self.added + len(added) > most:
            raise CatalogueFullError(
                f"rows of added and updated items are {self.added + len(added)}; allowed: 0 to {most} "
                "(UNIPINREC_MAX_ADDED_ITEMS); serve a new bundle that was exported with these items"
            )
        records = np.zeros(len(added) + len(removed), self.items.record)
        records["item_id"] = [*added, *removed]
        records["base_row"] = [rows[item_id] for item_id in [*added, *removed]]
        records["added"][: len(added)] = 1
        base_row = records["base_row"][: len(added)].astype(np.int64)
        made_of = self.vectors(list(added.values()), base_row)
        records["vector"][: len(added)], records["second"][: len(added)] = made_of
        transaction.take(bundle_id, self.items.version, [record.tobytes() for record in records])


class CatalogueWriter:
    """Writes from several threads of one process, while others may write too."""

    def __init__(
        self, store: CatalogueStore, own: BundleRows, most: int, open_bundle: Callable[[Path], BundleRows]
    ) -> None:
        """Take over what is there, for `own` first; `open_bundle` opens the others that are served, by their
        folders. Raises `StoreError` if the store cannot be written, and `CatalogueFullError` if more than
        `most` rows would be needed."""
        self._store, self._own, self._most = store, own, most
        self._open_bundle = open_bundle
        self._others: dict[str, BundleRows] = {}
        self._turn = threading.Lock()
        self._seen: tuple[int, tuple[str, ...]] | None = None
        self.take_over()

    @property
    def rows(self) -> int:
        """Rows beside those of its own bundle."""
        return self._own.added

    def update(self, changes: Sequence[tuple[int, Item | None]]) -> list[Updated]:
        """Note changes of items, in their order, all or nothing; None removes one. Returns what became of
        each, once it is on disk and all processes that look from then on see it.

        Raises `StoreError` where the store fails, and `CatalogueFullError` if there would be too many rows.
        """
        with self._turn:
            bundles = self._bundles()
            with self._store.writing() as transaction:
                for bundle in bundles:
                    bundle.items.follow(transaction)
                told = [self._note(transaction, *change) for change in changes]
                for bundle in bundles:
                    bundle.take(transaction, self._most)
            self._own.items.refresh()
        titles = [(item_id, item.title) for item_id, item in changes if item is not None]
        if titles:
            lines = (json.dumps({"item_id": item_id, "title": title}) for item_id, title in titles)
            with (self._store.path / TITLES).open("a", encoding="utf-8") as file:
                file.write("".join(f"{line}\n" for line in lines))
        return told

    def take_over(self) -> None:
        """Make rows of what others have noted, and for bundles that are served since the last look."""
        served = tuple(sorted(served_bundles(self._store.path)))
        if (self._store.transactions, served) == self._seen:
            return
        self.update([])
        self._seen = (self._store.transactions, served)

    def _bundles(self) -> list[BundleRows]:
        """Its own and the others that are served."""
        served = served_bundles(self._store.path)
        for bundle_id in [one for one in self._others if one not in served]:
            del self._others[bundle_id]
        for bundle_id, folder in served.items():
            if bundle_id != self._own.loaded.id and bundle_id not in self._others:
                try:
                    self._others[bundle_id] = self._open_bundle(folder)
                except (BundleError, OSError):
                    # Its nodes, which have checked it, are about to be replaced.
                    continue
        return [self._own, *self._others.values()]

    def _note(self, transaction: CatalogueTransaction, item_id: int, item: Item | None) -> Updated:
        before = transaction.change(item_id)
        known = self._own.row(item_id) >= 0 if before is None else before.item is not None
        if before is not None and before.item == item:
            return Updated("absent" if item is None else "unchanged", before.version)
        version = transaction.put(item_id, item, time.time_ns() // 10**6)
        if item is None:
            return Updated("removed" if known else "absent", version)
        return Updated("updated" if known else "added", version)
