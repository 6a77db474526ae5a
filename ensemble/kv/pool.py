"""Keys and values of many users in one preallocated memory that several processes map: docs/kv-pool.md.

The retrieval process owns a pool and writes it; ranking maps the same memory and reads it, and so do other
retrieval instances that look for a user's prefix. Only a small handle travels through the server. Nothing
here blocks, and no reader trusts an unchecked slot.

A slot's generation stands for its content: it changes before a position that was published is overwritten.
Appending positions keeps the generation, since it changes nothing that a handle has named.

Shapes: S slots, L layers, H heads, T positions (BOS first), D head width, C hidden width, X header columns.
"""

import gc
import json
import re
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from ensemble.kv.event_chain import EventChain
from ensemble.kv.shared_memory import SharedMemory
from ensemble.kv.slot_storage import PoolMemory, SlotLayout, SlotStorage
from ensemble.owners import named

FREE, WRITING, READY = 0, 1, 2

GENERATION, STATE, DEADLINE_NS, LENGTH, LEASE, RELEASED, DIGEST, _, BLOCK_LENGTH, BLOCK_DIGEST, _ = range(11)
"""Columns of a slot's header. Readers write RELEASED only; the owner writes the others. DIGEST names the
events of all LENGTH positions and BLOCK_DIGEST those of the first BLOCK_LENGTH, in two columns each;
0: none."""

COLUMNS = 11

WATCH_S = 0.25
"""Seconds between two looks at which pools are gone."""

SHARED = SharedMemory()


class Handle(NamedTuple):
    """What the graph carries instead of keys and values."""

    epoch: int
    """Identity of the pool; another one after every restart of its owner. 0: no slot was free."""
    slot: int
    generation: int
    length: int
    """Positions filled, BOS included."""
    lease: int
    """Which of the slot's leases is this request's."""
    reused: int
    """Positions that an earlier request had left."""

    def to_array(self) -> NDArray[np.int64]:
        """Return the handle as INT64 [6]."""
        return np.array(self, np.int64)

    @classmethod
    def from_array(cls, array: NDArray[np.int64]) -> Self:
        """Return the handle in an INT64 [6]."""
        return cls(*array.tolist())


def no_slot(length: int) -> Handle:
    """Return the handle of a request that found no slot; ranking recomputes."""
    return Handle(epoch=0, slot=-1, generation=0, length=length, lease=0, reused=0)


class Match(NamedTuple):
    """A slot whose first `length` positions are those of a request."""

    slot: int
    length: int
    generation: int
    whole: bool
    """Whether the slot holds nothing more, so that the hidden state beside it belongs to these positions."""


class KVPool:
    """The owner's side: one per retrieval instance."""

    def __init__(
        self, folder: Path, instance: str, layout: SlotLayout, lease_ms: int, memory: PoolMemory = SHARED
    ) -> None:
        """Allocate the pool and announce it in `folder/kv-<instance>-<epoch>.json`.

        A predecessor's files of the same instance are removed: its readers keep their mapping until they
        meet a handle of this epoch.
        """
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        # The dash separates the parts of a file's name.
        instance = re.sub(r"\W", "_", instance)
        for old in folder.glob(f"kv-{instance}-*"):
            old.unlink()
        self.epoch = secrets.randbelow(2**62) + 1
        self.evictions = 0
        self._lease_ns = lease_ms * 1_000_000
        # Counted for all slots together, so that no two contents ever share a generation.
        self._generation = 0
        self._lease = 0
        self._base = folder / f"kv-{instance}-{self.epoch}"
        self.storage: SlotStorage = memory.create(self._base, layout)
        self.header_SX = _map_header(self._base.with_suffix(".header"), layout.slots, "w+")
        # Least recently used first.
        self._lru: OrderedDict[int, None] = OrderedDict.fromkeys(range(layout.slots))
        self._slot_by_digest: dict[bytes, int] = {}
        self._owner_by_slot: dict[int, bytes] = {}
        partial = self._base.with_suffix(".partial")
        partial.write_text(json.dumps({"epoch": self.epoch, **self.storage.describe()}))
        partial.rename(self._base.with_suffix(".json"))

    @property
    def slots_in_use(self) -> int:
        """Slots that hold a history's keys and values."""
        return int((self.header_SX[:, STATE] == READY).sum())

    def find(self, chain: EventChain) -> Match | None:
        """Return the slot that shares the most positions with a request."""
        for length in chain.lengths:
            slot = self._slot_by_digest.get(chain.digest(length) or b"")
            if slot is not None:
                header = self.header_SX[slot]
                return Match(slot, length, int(header[GENERATION]), whole=bool(header[LENGTH] == length))
        return None

    def acquire(self, owner: bytes = b"") -> int | None:
        """Return a slot to fill from its first position: a free one, else the least recently used that no
        lease protects, else None.

        The generation changes before the first byte is written, so that a reader of the previous content
        notices. Nothing of it is left: the new content may be shorter, and another owner's.
        """
        for slot in self._lru:
            if not self.is_leased(slot):
                self.evictions += int(self.header_SX[slot, STATE] == READY)
                self._overwrite(slot)
                if slot in self._owner_by_slot:
                    self.storage.clear(slot)
                self._owner_by_slot[slot] = named(owner)
                return slot
        return None

    def wipe(self, owners: Collection[bytes]) -> int:
        """Overwrite the slots of owners with zeros and free them, whoever reads them: the generation changes
        first. Returns how many slots these were. None may be in use by this process."""
        names = {named(owner) for owner in owners}
        slots = [slot for slot, name in self._owner_by_slot.items() if name in names]
        for slot in slots:
            self._overwrite(slot)
            self.storage.clear(slot)
            self.header_SX[slot, [LENGTH, BLOCK_LENGTH]] = 0
            self.header_SX[slot, STATE] = FREE
            self._lru.move_to_end(slot, last=False)
            del self._owner_by_slot[slot]
        self.storage.synchronize()
        return len(slots)

    def resume(self, match: Match) -> bool:
        """Prepare to continue a slot behind the first `match.length` positions, which stay. Returns False,
        and does nothing, where that would overwrite positions that a lease protects."""
        if not match.whole:
            if self.is_leased(match.slot):
                return False
            self._overwrite(match.slot)
        self._unindex(match.slot)
        self._renew_lease(match.slot)
        self._lru.move_to_end(match.slot)
        return True

    def is_leased(self, slot: int) -> bool:
        """Return whether a request may still be reading a slot, or this process is writing it."""
        header = self.header_SX[slot]
        leased = header[STATE] != FREE and header[RELEASED] != header[LEASE]
        return bool(leased and header[DEADLINE_NS] > time.monotonic_ns())

    def publish(self, slot: int, chain: EventChain, reused: int = 0) -> Handle:
        """Return a handle by which readers see a slot, under a lease of its own, now that its content is
        complete on its device."""
        self.storage.synchronize()
        header = self.header_SX[slot]
        self._index(slot, chain)
        self._renew_lease(slot)
        header[LENGTH] = len(chain)
        header[STATE] = READY
        return Handle(self.epoch, slot, int(header[GENERATION]), len(chain), self._lease, reused)

    def abandon(self, slot: int) -> None:
        """Give a slot up whose content did not become complete."""
        self._unindex(slot)
        self.header_SX[slot, STATE] = FREE

    def close(self) -> None:
        """Remove the pool's files."""
        for path in self._base.parent.glob(f"{self._base.name}.*"):
            path.unlink(missing_ok=True)

    def _overwrite(self, slot: int) -> None:
        self._generation += 1
        header = self.header_SX[slot]
        header[GENERATION] = self._generation
        header[STATE] = WRITING
        self._unindex(slot)
        self._renew_lease(slot)
        self._lru.move_to_end(slot)

    def _renew_lease(self, slot: int) -> None:
        self._lease += 1
        self.header_SX[slot, LEASE] = self._lease
        self.header_SX[slot, DEADLINE_NS] = time.monotonic_ns() + self._lease_ns

    def _index(self, slot: int, chain: EventChain) -> None:
        self._unindex(slot)
        header = self.header_SX[slot]
        header[DIGEST : DIGEST + 2] = np.frombuffer(chain.whole, np.int64)
        self._slot_by_digest[chain.whole] = slot
        block = chain.digest(chain.last_block)
        # BOS alone is every history's prefix, and a slot that ends with the block serves better.
        if block is not None and chain.last_block > 1 and block not in self._slot_by_digest:
            header[BLOCK_LENGTH] = chain.last_block
            header[BLOCK_DIGEST : BLOCK_DIGEST + 2] = np.frombuffer(block, np.int64)
            self._slot_by_digest[block] = slot

    def _unindex(self, slot: int) -> None:
        header = self.header_SX[slot]
        for column in (DIGEST, BLOCK_DIGEST):
            digest = header[column : column + 2].tobytes()
            if self._slot_by_digest.get(digest) == slot:
                del self._slot_by_digest[digest]
            header[column : column + 2] = 0


class MappedPool:
    """A reader's side of one pool."""

    def __init__(self, descriptor: Path, memory: PoolMemory = SHARED) -> None:
        fields = json.loads(descriptor.read_text())
        self.epoch = int(fields["epoch"])
        self.storage: SlotStorage = memory.open(descriptor.parent, fields)
        self._header_SX = _map_header(descriptor.with_suffix(".header"), fields["slots"], "r+")

    def holds(self, handle: Handle) -> bool:
        """Return whether the slot begins with what the handle says, under a lease that has not expired."""
        if handle.epoch != self.epoch or not 0 <= handle.slot < len(self._header_SX):
            return False
        header = self._header_SX[handle.slot]
        return bool(
            header[GENERATION] == handle.generation
            and header[STATE] == READY
            and 1 <= handle.length <= header[LENGTH]
            and header[DEADLINE_NS] > time.monotonic_ns()
        )

    def release(self, handle: Handle) -> None:
        """End a lease early: the slot may be reused once its latest lease has ended. A slot that was
        overwritten since is left alone."""
        header = self._header_SX[handle.slot]
        if header[GENERATION] == handle.generation:
            header[RELEASED] = handle.lease

    def find(self, chain: EventChain) -> Match | None:
        """Return the slot that shares the most positions with a request; `shows` says if it still does."""
        matches = []
        for column in (DIGEST, BLOCK_DIGEST):
            for slot in np.flatnonzero(np.isin(self._header_SX[:, column], chain.first_halves)):
                matches += [match for match in self._matches(int(slot), chain) if self.shows(match, chain)]
        return max(matches, key=lambda match: match.length, default=None)

    def shows(self, match: Match, chain: EventChain) -> bool:
        """Return whether a slot's content is what it was when the match was made."""
        return match in self._matches(match.slot, chain)

    def _matches(self, slot: int, chain: EventChain) -> Iterator[Match]:
        # One copy, so that the columns are compared as they were at one moment, or nearly so.
        header = self._header_SX[slot].copy()
        if header[STATE] != READY:
            return
        for column, length in ((DIGEST, LENGTH), (BLOCK_DIGEST, BLOCK_LENGTH)):
            positions = int(header[length])
            digest = header[column : column + 2].tobytes()
            if 1 <= positions <= len(chain) and digest == chain.digest(positions):
                yield Match(slot, positions, int(header[GENERATION]), whole=bool(header[LENGTH] == positions))


class PoolDirectory:
    """Finds the pool that a handle names, and maps it once.

    A dead pool's memory lives on while it is mapped here, and its owner's successor may need the memory:
    whoever keeps a directory for long calls `forget_gone` now and then, as `watch` does.
    """

    def __init__(self, folder: Path, memory: PoolMemory = SHARED) -> None:
        self._folder = folder
        self._memory = memory
        self._mapped: dict[int, MappedPool] = {}
        self._forgot = False
        self._stopped = threading.Event()
        self._watcher: threading.Thread | None = None

    def find(self, handle: Handle) -> MappedPool | None:
        """Return the handle's pool, or None when it is gone."""
        return self._map(handle.epoch) if handle.epoch > 0 else None

    def wait(self, seconds: float) -> list[MappedPool]:
        """Return all pools, as soon as there is any, and at the latest after so many seconds."""
        deadline = time.monotonic() + seconds
        while not self._announced() and time.monotonic() < deadline:
            time.sleep(WATCH_S)
        return self.others(0)

    def others(self, epoch: int) -> list[MappedPool]:
        """Return the pools of all instances but that of `epoch`."""
        epochs = [found for found in self._announced() if found != epoch]
        return [pool for found in epochs if (pool := self._map(found)) is not None]

    def forget_gone(self) -> None:
        """Let go of pools whose owner has a successor."""
        # Listed first: what another thread maps meanwhile may have been announced since.
        mapped = set(self._mapped)
        for epoch in mapped - self._announced():
            pool = self._mapped.pop(epoch, None)
            if pool is not None:
                self._memory.close(pool.storage)
                self._forgot = True

    def watch(self) -> None:
        """Let go of pools as soon as they are gone, in a thread, until `close`."""
        self._watcher = threading.Thread(target=self._watch, name="pools", daemon=True)
        self._watcher.start()

    def close(self) -> None:
        """End the thread of `watch`. It must not outlive the interpreter: a thread that lets go of a tensor
        then takes the process down."""
        self._stopped.set()
        if self._watcher is not None:
            self._watcher.join()

    def _watch(self) -> None:
        while not self._stopped.wait(WATCH_S):
            if self._forgot:
                self._forgot = False
                # Compilers leave cycles around what they saw, which would keep the memory; by now, no request
                # is reading it.
                gc.collect()
            self.forget_gone()

    def _map(self, epoch: int) -> MappedPool | None:
        pool = self._mapped.get(epoch)
        if pool is None:
            descriptor = next(self._folder.glob(f"kv-*-{epoch}.json"), None)
            if descriptor is None:
                return None
            self.forget_gone()
            try:
                pool = self._mapped[epoch] = MappedPool(descriptor, self._memory)
            except FileNotFoundError:
                return None
        return pool

    def _announced(self) -> set[int]:
        return {int(path.stem.rpartition("-")[2]) for path in self._folder.glob("kv-*.json")}


def _map_header(path: Path, slots: int, mode: Literal["r+", "w+"]) -> NDArray[np.int64]:
    """Slot headers [S, X]; aligned 8-byte accesses, which x86-64 and arm64 never tear."""
    # A plain view of the mapped file: indexing a memmap itself costs ten times as much.
    return np.memmap(path, np.int64, mode=mode, shape=(slots, COLUMNS)).view(np.ndarray)
