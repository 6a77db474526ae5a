"""Items that callers have added, updated and removed, in LMDB: a folder of one host that outlives bundles.

`ITEMS` has what is known of each by its id, `CHANGES` the id of each by the version of its latest change, and
`ROWS` what each bundle made of them, in order: a change is public to all processes at once, when the
transaction that makes it is on disk. `TAKEN` has the version up to which each bundle has taken changes over.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from struct import Struct
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

import lmdb

from ensemble.stores.history_store import StoreError
from ensemble.stores.lmdb_store import GROWTH_BYTES, MODE, Kind, check_folder, failing_in_one_line

ITEMS, CHANGES, ROWS, TAKEN = TABLES = (b"items-1", b"changes-1", b"rows-1", b"taken-1")
KIND = Kind("catalogue", "`unipinrec serve --update-items`")
NUMBER = Struct(">Q")

_opened: WeakValueDictionary[Path, "CatalogueStore"] = WeakValueDictionary()


class Item(NamedTuple):
    """What is known of an item."""

    attributes: tuple[int, ...]
    """Ids of categories, brands, tags, ascending."""
    content: tuple[float, ...]
    """Numbers of float32; empty where there are none."""
    title: str


class Change(NamedTuple):
    """The latest change of an item."""

    version: int
    time_ms: int
    """Unix milliseconds."""
    item: Item | None
    """None: it is removed."""


class CatalogueStore:
    """The folder, which a process opens once, to read or also to write; for one thread at a time."""

    def __init__(self, path: Path, *, writable: bool) -> None:
        """Raises `StoreError` if something else is there, or the folder cannot be opened or written to."""
        self.path = path
        self.writable = writable
        check_folder(path, writable, KIND)
        with failing_in_one_line(path, KIND):
            self._environment = lmdb.open(
                str(path),
                map_size=0,
                readonly=not writable,
                max_dbs=len(TABLES),
                readahead=False,
                mode=MODE,
            )
            # What a killed reader has left would keep its pages from being used again.
            self._environment.reader_check()
            if writable:
                with self._environment.begin(write=True) as transaction:
                    for name in TABLES:
                        self._environment.open_db(name, transaction)
            self.tables = {name: self._environment.open_db(name, create=False) for name in TABLES}

    @classmethod
    def open(cls, path: Path, *, writable: bool = False) -> "CatalogueStore":
        """Return the store of a folder, the same for all of a process. Raises `StoreError` as making one
        does, and where it is open to read and is to be written to."""
        store = _opened.get(path)
        if store is None:
            store = _opened[path] = cls(path, writable=writable)
        if writable and not store.writable:
            raise StoreError(f"catalogue {path} is open to be read; open it to be written to first")
        return store

    def __del__(self) -> None:
        if hasattr(self, "_environment"):
            self._environment.close()

    @property
    def transactions(self) -> int:
        """The number of the last transaction on disk, of any process: one look at mapped memory. For a moment
        it may be one that nobody can read yet."""
        number: int = self._environment.info()["last_txnid"]
        return number

    @contextmanager
    def reading(self) -> Iterator["CatalogueTransaction"]:
        """A transaction of its own, and so with all that was written before it."""
        while True:
            try:
                transaction = self._environment.begin()
                break
            except lmdb.MapResizedError:
                self._environment.set_mapsize(0)
        with transaction:
            yield CatalogueTransaction(transaction, self)

    @contextmanager
    def writing(self) -> Iterator["CatalogueTransaction"]:
        """A transaction that is on disk at its end, or, if anything is raised, has changed nothing. Raises
        `StoreError` if it cannot be written."""
        with failing_in_one_line(self.path, KIND):
            self._make_room()
            with self._environment.begin(write=True) as transaction:
                yield CatalogueTransaction(transaction, self)

    def _make_room(self) -> None:
        """Grow the map before it is full: what writes is not to be begun anew."""
        self._environment.set_mapsize(0)
        info = self._environment.info()
        used = (info["last_pgno"] + 1) * self._environment.stat()["psize"]
        if info["map_size"] - used < GROWTH_BYTES:
            self._environment.set_mapsize(info["map_size"] + GROWTH_BYTES)


class CatalogueTransaction:
    """What is in the store in one transaction."""

    def __init__(self, transaction: lmdb.Transaction, store: CatalogueStore) -> None:
        self._transaction, self._tables = transaction, store.tables
        self.number: int = transaction.id()
        """Of the last transaction that it sees, or its own if it writes."""

    @property
    def version(self) -> int:
        """The number of the latest change; 0 before the first."""
        with self._transaction.cursor(self._tables[CHANGES]) as cursor:
            return _number(cursor.key()) if cursor.last() else 0

    def change(self, item_id: int) -> Change | None:
        """Return the latest change of an item, None if there has been none."""
        found = self._transaction.get(NUMBER.pack(item_id), db=self._tables[ITEMS])
        if found is None:
            return None
        version, time_ms, item = json.loads(bytes(found))
        return Change(version, time_ms, item and Item(tuple(item[0]), tuple(item[1]), item[2]))

    def put(self, item_id: int, item: Item | None, time_ms: int) -> int:
        """Note the latest change of an item. Returns the version."""
        before, version = self.change(item_id), self.version + 1
        if before is not None:
            self._transaction.delete(NUMBER.pack(before.version), db=self._tables[CHANGES])
        key = NUMBER.pack(item_id)
        value = json.dumps(Change(version, time_ms, item), ensure_ascii=False, separators=(",", ":"))
        self._transaction.put(key, value.encode(), db=self._tables[ITEMS])
        self._transaction.put(NUMBER.pack(version), key, db=self._tables[CHANGES])
        return version

    def changes(self, after: int) -> list[tuple[int, Change]]:
        """Return id and change of all items that were changed after a version, in order."""
        with self._transaction.cursor(self._tables[CHANGES]) as cursor:
            # A cursor that has found nothing would begin at the first.
            found = cursor.set_range(NUMBER.pack(after + 1))
            ids = [_number(key) for key in cursor.iternext(keys=False)] if found else []
        changes = ((item_id, self.change(item_id)) for item_id in ids)
        return [(item_id, change) for item_id, change in changes if change is not None]

    def taken(self) -> dict[str, int]:
        """Return the version up to which each bundle has taken changes over."""
        with self._transaction.cursor(self._tables[TAKEN]) as cursor:
            return {bytes(bundle_id).decode(): _number(version) for bundle_id, version in cursor}

    def take(self, bundle_id: str, after: int, records: list[bytes]) -> None:
        """Add what a bundle made of all changes, behind the records that it has, of which `after` is the
        last."""
        prefix = _prefix(bundle_id)
        for number, record in enumerate(records, after + 1):
            self._transaction.put(prefix + NUMBER.pack(number), record, db=self._tables[ROWS])
        self._transaction.put(bundle_id.encode(), NUMBER.pack(self.version), db=self._tables[TAKEN])

    def records(self, bundle_id: str, after: int) -> list[bytes]:
        """Return a bundle's records behind the first `after`, which is their number, in order."""
        prefix = _prefix(bundle_id)
        found: list[bytes] = []
        with self._transaction.cursor(self._tables[ROWS]) as cursor:
            if cursor.set_range(prefix + NUMBER.pack(after + 1)):
                for key, value in cursor:
                    if not bytes(key).startswith(prefix):
                        break
                    found.append(bytes(value))
        return found


def _prefix(bundle_id: str) -> bytes:
    return blake2b(bundle_id.encode(), digest_size=NUMBER.size).digest()


def _number(value: Any) -> int:
    number: int = NUMBER.unpack(value)[0]
    return number
