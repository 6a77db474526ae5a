"""Notes changes of items, and takes them over for the bundle that is served.

A change is noted, and becomes a row of this bundle, in one transaction. What another process has noted, as
that of a second bundle in the same server does, is taken over soon.
"""

import fcntl
import json
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ensemble.arrays import Int64s
from ensemble.loaded_bundle import LoadedBundle
from ensemble.stores.catalogue_store import CatalogueStore, CatalogueTransaction, Item
from ensemble.stores.history_store import StoreError
from ensemble.stores.served_items import ServedItems

OUTCOMES = ("added", "updated", "unchanged", "removed", "absent")
TITLES = "titles.jsonl"
"""Beside the tables: titles for whoever shows answers; the last line of an item counts."""
WAIT_S, POLL_S = 5.0, 0.005

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


class CatalogueWriter:
    """Writes for one bundle, from several threads of one process."""

    def __init__(
        self, loaded: LoadedBundle, store: CatalogueStore, items: ServedItems, vectors: Vectors, most: int
    ) -> None:
        """Take over what is there. Raises `StoreError` if another process writes for the bundle, or the
        store cannot be written, and `CatalogueFullError` if more than `most` rows would be needed."""
        self._bundle, self._store, self._items = loaded, store, items
        self._vectors, self._most = vectors, most
        self._turn = threading.Lock()
        self._seen = -1
        self._lock = _claim(store.path, loaded.id)
        self.take_over()

    @property
    def rows(self) -> int:
        """Rows beside the bundle's."""
        return self._items.rows - self._items.in_bundle

    def update(self, changes: Sequence[tuple[int, Item | None]]) -> list[Updated]:
        """Note changes of items, in their order, all or nothing; None removes one. Returns what became of
        each, once it is on disk and all processes that look from then on see it.

        Raises `StoreError` where the store fails, or another bundle that is served does not take them over in
        time, and `CatalogueFullError` if there would be too many rows.
        """
        with self._turn:
            self._items.refresh()
            with self._store.writing() as transaction:
                told = [self._note(transaction, *change) for change in changes]
                self._take(transaction)
            self._items.refresh()
        titles = [(item_id, item.title) for item_id, item in changes if item is not None]
        if titles:
            lines = (json.dumps({"item_id": item_id, "title": title}) for item_id, title in titles)
            with (self._store.path / TITLES).open("a", encoding="utf-8") as file:
                file.write("".join(f"{line}\n" for line in lines))
        if told:
            self._wait_for_others(max(updated.version for updated in told))
        return told

    def take_over(self) -> None:
        """Make rows of what others have noted. Costs a look at mapped memory where nothing has been."""
        if self._store.transactions == self._seen:
            return
        with self._turn:
            self._items.refresh()
            with self._store.writing() as transaction:
                self._take(transaction)
                # Without a change of its own, it ends as the one before it.
                self._seen = transaction.number - 1
            self._items.refresh()

    def close(self) -> None:
        """Let another process write for the bundle."""
        os.close(self._lock)

    def _note(self, transaction: CatalogueTransaction, item_id: int, item: Item | None) -> Updated:
        before = transaction.change(item_id)
        known = self._row(item_id) >= 0 if before is None else before.item is not None
        if before is not None and before.item == item:
            return Updated("absent" if item is None else "unchanged", before.version)
        version = transaction.put(item_id, item, time.time_ns() // 10**6)
        if item is None:
            return Updated("removed" if known else "absent", version)
        return Updated("updated" if known else "added", version)

    def _take(self, transaction: CatalogueTransaction) -> None:
        """Make records of all changes since the last one that the bundle has taken over."""
        taken = transaction.taken().get(self._bundle.id)
        changes = transaction.changes(after=taken or 0)
        if taken is not None and not changes:
            return
        rows = {item_id: self._row(item_id) for item_id, _ in changes}
        if taken is None:
            # The bundle was made with what was known of its items then.
            made = self._bundle.manifest.created.timestamp() * 1000
            changes = [
                (item_id, change)
                for item_id, change in changes
                if change.item is None or rows[item_id] < 0 or change.time_ms > made
            ]
        added = {item_id: change.item for item_id, change in changes if change.item is not None}
        removed = [
            item_id
            for item_id, change in changes
            if change.item is None and self._items.latest(item_id, rows[item_id]) is not None
        ]
        if self.rows + len(added) > self._most:
            raise CatalogueFullError(
                f"rows of added and updated items are {self.rows + len(added)}; allowed: 0 to {self._most} "
                "(UNIPINREC_MAX_ADDED_ITEMS); serve a new bundle that was exported with these items"
            )
        records = np.zeros(len(added) + len(removed), self._items.record)
        records["item_id"] = [*added, *removed]
        records["base_row"] = [rows[item_id] for item_id in [*added, *removed]]
        records["added"][: len(added)] = 1
        base_row = records["base_row"][: len(added)].astype(np.int64)
        made_of = self._vectors(list(added.values()), base_row)
        records["vector"][: len(added)], records["second"][: len(added)] = made_of
        transaction.take(self._bundle.id, self._items.version, [record.tobytes() for record in records])

    def _row(self, item_id: int) -> int:
        return int(self._items.vocabulary.rows_of(np.array([item_id]))[0])

    def _wait_for_others(self, version: int) -> None:
        """Return once all bundles that are served have taken a version over."""
        deadline = time.monotonic() + WAIT_S
        while True:
            with self._turn, self._store.reading() as transaction:
                behind = [one for one, taken in transaction.taken().items() if taken < version]
            late = [one for one in behind if _is_claimed(self._store.path, one)]
            if not late:
                return
            if time.monotonic() > deadline:
                raise StoreError(f"bundle {late[0]} has not taken over what is stored within {WAIT_S:g} s")
            time.sleep(POLL_S)


def _claim(folder: Path, bundle_id: str) -> int:
    """Return the open file that says which process writes for a bundle, until it ends."""
    descriptor = os.open(_claim_file(folder, bundle_id), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + WAIT_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if time.monotonic() > deadline:
                os.close(descriptor)
                raise StoreError(
                    f"catalogue {folder}: another process writes for bundle {bundle_id}; stop it"
                ) from None
            time.sleep(POLL_S)
        else:
            return descriptor


def _is_claimed(folder: Path, bundle_id: str) -> bool:
    path = _claim_file(folder, bundle_id)
    if not path.exists():
        return False
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def _claim_file(folder: Path, bundle_id: str) -> Path:
    return folder / f"{bundle_id}.lock"
