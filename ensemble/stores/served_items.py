"""The items that a process serves: those of its bundle, and what has been added and removed beside them.

An item that is added or updated gets a row behind all others, so that a row stands for one id and one vector
for ever. What a bundle makes of each change is a record; the state after the first n of them is version n.

Shapes: V items of the bundle, O rows beside them, D dead rows, E item width, S width of the second ranker's
vectors, X any rows or ids.
"""

import os
import time
import weakref
from functools import cached_property
from typing import Any, Self
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from ensemble.arrays import PADDING, Floats, Int64s
from ensemble.loaded_bundle import LoadedBundle, Vocabulary
from ensemble.settings import ServingSettings
from ensemble.stores.catalogue_store import CatalogueStore, CatalogueTransaction
from ensemble.stores.history_store import StoreError
from ensemble.stores.served_bundles import claim_bundle
from unipinrec.data.history import rows_of

POLL_S = 0.02
NEVER = np.iinfo(np.int64).max
NOTHING: Int64s = np.empty(0, np.int64)

Bools = NDArray[np.bool_]

_opened: WeakValueDictionary[tuple[Any, ...], "ServedItems"] = WeakValueDictionary()


class Growing:
    """An array that rows are added to at its end, at a cost in proportion to theirs on average."""

    def __init__(self, *shape: int, dtype: Any) -> None:
        self._kept = np.empty((0, *shape), dtype)
        self._length = 0

    def extend(self, rows: NDArray[Any]) -> None:
        """Add rows."""
        end = self._length + len(rows)
        if end > len(self._kept):
            larger = np.empty((max(end, 2 * len(self._kept)), *self._kept.shape[1:]), self._kept.dtype)
            larger[: self._length] = self.array
            self._kept = larger
        self._kept[self._length : end] = rows
        self._length = end

    @property
    def array(self) -> NDArray[Any]:
        """All rows, in place."""
        return self._kept[: self._length]


class ServedItems:
    """What `refresh` has last seen of a bundle's items, for one thread at a time."""

    def __init__(self, loaded: LoadedBundle, store: CatalogueStore | None) -> None:
        self._bundle, self._store = loaded, store
        ranker = loaded.second_ranker()
        self.in_bundle = loaded.manifest.model.num_items
        self.record = record_type(loaded.manifest.model.item_dim, ranker[1].item_dim if ranker else 0)
        self.version = 0
        """Records seen."""
        self._transactions = -1
        self._id_O = Growing(dtype=np.int64)
        self._base_O = Growing(dtype=np.int64)
        self._born_O = Growing(dtype=np.int64)
        self._died_O = Growing(dtype=np.int64)
        self._vector_OE = Growing(loaded.manifest.model.item_dim, dtype=np.float32)
        self._second_OS = Growing(self.record["second"].shape[0], dtype=np.float32)
        self._dead_row_D = Growing(dtype=np.int64)
        self._dead_since_D = Growing(dtype=np.int64)
        self._removed_D = Growing(dtype=np.bool_)
        self._removed: set[int] = set()
        self._current: dict[int, int] = {}
        self._ids_X, self._rows_X = NOTHING, NOTHING
        self._gone: tuple[tuple[int, int] | None, Int64s] = (None, NOTHING)
        self._living: tuple[tuple[int, int] | None, Bools] = (None, np.empty(0, np.bool_))

    @classmethod
    def open(cls, loaded: LoadedBundle, settings: ServingSettings) -> "ServedItems":
        """Return the bundle's items with all that the catalogue has, where there is one: the same for all of
        a process. Raises `StoreError` if what is there is no catalogue."""
        path = settings.catalogue if settings.has_catalogue else None
        key = (path, loaded.folder, loaded.id)
        items = _opened.get(key)
        if items is None:
            store = None if path is None else CatalogueStore.open(path)
            items = _opened[key] = cls(loaded, store)
            items.claim()
        return items.refresh()

    def claim(self) -> None:
        """Have whoever writes make rows of the bundle too, as long as this lives."""
        if self._store is not None:
            self._claim = claim_bundle(self._store.path, self._bundle.id, self._bundle.folder)
            weakref.finalize(self, os.close, self._claim)

    def wait(self, seconds: float) -> None:
        """Return once there are rows of all that has been changed before this call. Raises `StoreError` if
        that takes too long."""
        if self._store is None:
            return
        deadline, wanted = time.monotonic() + seconds, None
        while True:
            with self._store.reading() as transaction:
                wanted = transaction.version if wanted is None else wanted
                if transaction.taken().get(self._bundle.id, -1) >= wanted:
                    return
            if time.monotonic() > deadline:
                raise StoreError(
                    f"catalogue {self._store.path}: nobody has made rows of bundle {self._bundle.id} within "
                    f"{seconds:g} s; the node update_items does"
                )
            time.sleep(POLL_S)

    @property
    def rows(self) -> int:
        """How many rows there are, dead ones too."""
        return self.in_bundle + len(self._id_O.array)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The ids of the bundle's own items."""
        return self._bundle.vocabulary()

    @cached_property
    def _vectors(self) -> Floats:
        return self._bundle.item_vectors()

    def refresh(self) -> Self:
        """Look at what has been written, in any process, before this call. Costs a look at mapped memory
        where nothing has."""
        if self._store is None or self._store.transactions == self._transactions:
            return self
        with self._store.reading() as transaction:
            self.follow(transaction)
        self._transactions = transaction.number
        return self

    def follow(self, transaction: CatalogueTransaction) -> None:
        """See what one transaction shows, which must not have made records of the bundle itself."""
        values = transaction.records(self._bundle.id, self.version)
        if values:
            self._apply(np.frombuffer(b"".join(values), self.record))

    def rows_of(self, item_id: Int64s) -> Int64s:
        """Return the latest row of each id, of a removed item too; `UNKNOWN_ROW` for unknown ones."""
        row = self.vocabulary.rows_of(item_id)
        if not len(self._ids_X):
            return row
        place = rows_of(self._ids_X, item_id)
        return np.where(place >= 0, self._rows_X[place], row)

    def ids_of(self, row_X: Int64s) -> Int64s:
        """Return the id of each row."""
        return self._beside(row_X, self.vocabulary.item_id_V, self._id_O.array)

    def vectors_of(self, row: Int64s) -> Floats:
        """Return the vectors [..., E] of rows [...]."""
        return self._beside(row, self._vectors, self._vector_OE.array)

    def in_bundle_rows(self, row_X: Int64s) -> Int64s:
        """Return the row that each item has in the bundle, `UNKNOWN_ROW` where it has none."""
        return self._beside(row_X, np.arange(self.in_bundle), self._base_O.array)

    def added(self, first: int) -> tuple[Floats, Floats, Int64s]:
        """Return the vectors, those of the second ranker and the rows in the bundle of what is beside it,
        from the row with the number `first` on."""
        return self._vector_OE.array[first:], self._second_OS.array[first:], self._base_O.array[first:]

    def is_removed(self, row_X: Int64s) -> Bools:
        """Return which rows are of items that have been removed."""
        removed = self._removed
        return np.array([row in removed for row in row_X.tolist()] if removed else np.zeros(len(row_X)), bool)

    def latest(self, item_id: int, base_row: int) -> int | None:
        """Return the row of an item that has one in the bundle, or -1; None where no answer may hold it."""
        row = self._current.get(item_id, base_row)
        return None if row < 0 or row in self._removed else row

    def gone(self, version: int) -> Int64s:
        """Return the bundle's rows that no answer may hold, ascending: those that were dead at a version, and
        those of items that have been removed since."""
        key = (version, self.version)
        if self._gone[0] != key:
            dead_D = (self._dead_since_D.array <= version) | self._removed_D.array
            row_D = self._dead_row_D.array
            self._gone = (key, np.sort(row_D[dead_D & (row_D < self.in_bundle)]))
        return self._gone[1]

    def beside(self, version: int) -> tuple[Floats, Bools]:
        """Return the vectors of all rows beside the bundle's, and which of them answers may hold at a
        version."""
        key = (version, self.version)
        if self._living[0] != key:
            living_O = (self._born_O.array <= version) & (self._died_O.array > version)
            row_D = self._dead_row_D.array[self._removed_D.array]
            living_O[row_D[row_D >= self.in_bundle] - self.in_bundle] = False
            self._living = (key, living_O)
        return self._vector_OE.array, self._living[1]

    def _beside(self, row: Int64s, of_V: NDArray[Any], of_O: NDArray[Any]) -> NDArray[Any]:
        if not len(of_O) or not row.size or row.max() < self.in_bundle:
            return of_V.take(row, axis=0)
        found: NDArray[Any] = of_V.take(np.minimum(row, self.in_bundle - 1), axis=0)
        added = row >= self.in_bundle
        found[added] = of_O[row[added] - self.in_bundle]
        return found

    def _apply(self, records: NDArray[np.void]) -> None:
        added = records[records["added"] != 0]
        numbers = self.version + 1 + np.arange(len(records))
        first = self.rows
        self._id_O.extend(added["item_id"])
        self._base_O.extend(added["base_row"])
        self._born_O.extend(numbers[records["added"] != 0])
        self._died_O.extend(np.full(len(added), NEVER))
        self._vector_OE.extend(added["vector"])
        self._second_OS.extend(added["second"])
        rows = iter(range(first, self.rows))
        columns = (records[name].tolist() for name in ("item_id", "base_row", "added"))
        for number, item_id, base_row, is_added in zip(numbers.tolist(), *columns, strict=True):
            row = self.latest(item_id, base_row)
            if row is not None:
                self._end(row, number)
            if is_added:
                self._current[item_id] = next(rows)
            else:
                self._remove(item_id, base_row)
        self._sort(np.unique(added["item_id"]))
        self.version += len(records)

    def _end(self, row: int, number: int) -> None:
        self._dead_row_D.extend(np.array([row]))
        self._dead_since_D.extend(np.array([number]))
        self._removed_D.extend(np.array([False]))
        if row >= self.in_bundle:
            self._died_O.array[row - self.in_bundle] = number

    def _remove(self, item_id: int, base_row: int) -> None:
        """Let no answer hold any row of an item that it has had so far, all of which are dead."""
        row_X = self.in_bundle + np.flatnonzero(self._id_O.array == item_id)
        # Those that this very look has found and that come later are of the item added again.
        row_X = row_X[row_X <= self._current.get(item_id, base_row)]
        row_X = np.append(row_X, base_row) if base_row >= 0 else row_X
        self._removed.update(row_X.tolist())
        self._removed_D.array[np.isin(self._dead_row_D.array, row_X)] = True

    def _sort(self, id_X: Int64s) -> None:
        """Take over the latest rows of some ids, ascending."""
        row_X = np.array([self._current[item_id] for item_id in id_X.tolist()], np.int64)
        place_X = np.searchsorted(self._ids_X, id_X)
        known_X = rows_of(self._ids_X, id_X) != PADDING if len(self._ids_X) else np.zeros(len(id_X), bool)
        self._rows_X[place_X[known_X]] = row_X[known_X]
        self._ids_X = np.insert(self._ids_X, place_X[~known_X], id_X[~known_X])
        self._rows_X = np.insert(self._rows_X, place_X[~known_X], row_X[~known_X])


def record_type(width: int, second: int) -> np.dtype[np.void]:
    """Return what a bundle makes of a change: its row of the item, or -1, whether a row is added or the item
    removed, and the vectors of the model and of the second ranker."""
    return np.dtype(
        [
            ("item_id", "<i8"),
            ("base_row", "<i8"),
            ("added", "u1"),
            ("vector", "<f4", (width,)),
            ("second", "<f4", (second,)),
        ]
    )
