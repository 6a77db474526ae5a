"""Keys and values of many requests in one preallocated memory that two processes map.

The retrieval process owns a pool and writes it; the ranking process maps the same memory and reads it.
Only a small handle travels through the server. Nothing here blocks, and no reader trusts an unchecked slot.

Shapes: S slots, L layers, H heads, T positions (BOS first), D head width. A slot is [L, 2, H, T, D].
"""

import json
import math
import mmap
import os
import re
import secrets
import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unipinrec.config import ModelConfig

FREE, WRITING, READY = 0, 1, 2

GENERATION, STATE, DEADLINE_NS, LENGTH, RELEASED = range(5)
"""Columns of a slot's header. The reader writes RELEASED only; the owner writes the others."""


@dataclass(frozen=True, slots=True)
class Handle:
    """What the graph carries instead of keys and values."""

    epoch: int
    """Identity of the pool; another one after every restart of its owner. 0: no slot was free."""
    slot: int
    generation: int
    length: int
    """Positions filled, BOS included."""

    def to_array(self) -> NDArray[np.int64]:
        """The handle as INT64 [4]."""
        return np.array([self.epoch, self.slot, self.generation, self.length], np.int64)

    @classmethod
    def from_array(cls, array: NDArray[np.int64]) -> Self:
        """The handle in an INT64 [4]."""
        return cls(*(int(value) for value in array))


class SlotStorage(Protocol):
    """Where the slots live. Another device adds another class like `SharedMemoryStorage`."""

    slots_SL2HTD: Tensor

    def describe(self) -> dict[str, object]:
        """What another process needs to map the same memory."""


class SharedMemoryStorage:
    """Slots in a file of a memory-backed file system, mapped by both processes."""

    def __init__(self, path: Path, shape: tuple[int, ...]) -> None:
        """Map a file that exists; making it here would show zeros as if they were keys and values."""
        self._path = path
        with path.open("r+b") as file:
            memory = mmap.mmap(file.fileno(), _bytes(shape))
        self.slots_SL2HTD = torch.frombuffer(memory, dtype=torch.float32).view(shape)

    @classmethod
    def create(cls, path: Path, shape: tuple[int, ...]) -> Self:
        """Allocate zeroed memory.

        Raises:
            MemoryError: the file system has not enough room; writing beyond it would kill the process.
        """
        needed = _bytes(shape)
        room = os.statvfs(path.parent)
        available = room.f_bavail * room.f_frsize
        if needed > available:
            raise MemoryError(
                f"the KV pool needs {needed >> 20} MiB in {path.parent}; {available >> 20} MiB are free. "
                "Use fewer pool slots, or more shared memory (Docker: shm_size)"
            )
        with path.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, needed)
        return cls(path, shape)

    def describe(self) -> dict[str, object]:
        """The file's name, beside the descriptor."""
        return {"device": "cpu", "file": self._path.name}


def slot_shape(config: ModelConfig) -> tuple[int, int, int, int, int]:
    """[L, 2, H, T, D] of one request."""
    return (config.layers, 2, config.heads, config.max_positions, config.head_dim)


class KVPool:
    """The owner's side: one per retrieval instance."""

    def __init__(
        self, folder: Path, instance: str, shape: tuple[int, ...], slots: int, lease_ms: int
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
        self._lease_ns = lease_ms * 1_000_000
        # One count for all slots, so that no two contents ever share a generation.
        self._generation = 0
        self._base = folder / f"kv-{instance}-{self.epoch}"
        self._storage: SlotStorage = SharedMemoryStorage.create(
            self._base.with_suffix(".slots"), (slots, *shape)
        )
        self.header_SX = _map_header(self._base.with_suffix(".header"), slots, "w+")
        self._by_age: OrderedDict[int, None] = OrderedDict.fromkeys(range(slots))
        _announce(self._base, {"epoch": self.epoch, "shape": [slots, *shape], **self._storage.describe()})

    def acquire(self) -> int | None:
        """A slot to write into: a free one, else the least recently used that no lease protects.

        None when every slot is leased. The generation changes before the first byte is written, so that a
        reader of the previous content notices.
        """
        now = time.monotonic_ns()
        for slot in self._by_age:
            header = self.header_SX[slot]
            leased = header[RELEASED] != header[GENERATION] and header[DEADLINE_NS] > now
            if header[STATE] == FREE or not leased:
                self._generation += 1
                header[GENERATION] = self._generation
                header[STATE] = WRITING
                header[DEADLINE_NS] = now + self._lease_ns
                self._by_age.move_to_end(slot)
                return slot
        return None

    def slot(self, slot: int) -> Tensor:
        """The memory [L, 2, H, T, D] of an acquired slot."""
        return self._storage.slots_SL2HTD[slot]

    def publish(self, slot: int, length: int) -> Handle:
        """Mark an acquired slot readable, after its content is complete."""
        header = self.header_SX[slot]
        header[LENGTH] = length
        header[DEADLINE_NS] = time.monotonic_ns() + self._lease_ns
        header[STATE] = READY
        return Handle(self.epoch, slot, int(header[GENERATION]), length)

    def no_slot(self, length: int) -> Handle:
        """The handle of a request that found no slot; ranking recomputes."""
        return Handle(0, -1, 0, length)

    def close(self) -> None:
        """Remove the pool's files."""
        for path in self._base.parent.glob(f"{self._base.name}.*"):
            path.unlink(missing_ok=True)


class MappedPool:
    """The reader's side of one pool."""

    def __init__(self, descriptor: Path) -> None:
        fields = json.loads(descriptor.read_text())
        if fields["device"] != "cpu":
            raise ValueError(f"the KV pool's device is {fields['device']!r}; allowed: 'cpu'")
        shape = tuple(fields["shape"])
        self.epoch = int(fields["epoch"])
        self._header_SX = _map_header(descriptor.with_suffix(".header"), shape[0], "r+")
        self._storage: SlotStorage = SharedMemoryStorage(descriptor.parent / fields["file"], shape)

    def holds(self, handle: Handle) -> bool:
        """Whether the slot still is what the handle says, under a lease that has not expired."""
        if handle.epoch != self.epoch or not 0 <= handle.slot < len(self._header_SX):
            return False
        header = self._header_SX[handle.slot]
        return bool(
            header[GENERATION] == handle.generation
            and header[STATE] == READY
            and header[LENGTH] == handle.length
            and header[DEADLINE_NS] > time.monotonic_ns()
        )

    def view(self, handle: Handle) -> Tensor:
        """The filled positions [L, 2, H, length, D] of a slot, in place."""
        return self._storage.slots_SL2HTD[handle.slot, :, :, :, : handle.length]

    def release(self, handle: Handle) -> None:
        """End the lease early: the slot may be reused. A slot that was reused already is left alone."""
        header = self._header_SX[handle.slot]
        if header[GENERATION] == handle.generation:
            header[RELEASED] = handle.generation


class PoolDirectory:
    """Finds the pool that a handle names, and maps it once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._mapped: dict[int, MappedPool] = {}

    def find(self, handle: Handle) -> MappedPool | None:
        """The handle's pool, or None when it is gone."""
        if handle.epoch <= 0:
            return None
        if handle.epoch not in self._mapped:
            descriptor = next(self._folder.glob(f"kv-*-{handle.epoch}.json"), None)
            if descriptor is None:
                return None
            self._forget_vanished()
            try:
                self._mapped[handle.epoch] = MappedPool(descriptor)
            except FileNotFoundError:
                return None
        return self._mapped[handle.epoch]

    def _forget_vanished(self) -> None:
        alive = {int(path.stem.rpartition("-")[2]) for path in self._folder.glob("kv-*.json")}
        self._mapped = {epoch: pool for epoch, pool in self._mapped.items() if epoch in alive}


def _bytes(shape: tuple[int, ...]) -> int:
    return math.prod(shape) * torch.float32.itemsize


def _map_header(path: Path, slots: int, mode: str) -> NDArray[np.int64]:
    """Slot headers [S, 5]; aligned 8-byte accesses, which x86-64 and arm64 never tear."""
    if mode == "w+":
        return np.memmap(path, np.int64, mode="w+", shape=(slots, 5))
    return np.memmap(path, np.int64, mode="r+", shape=(slots, 5))


def _announce(base: Path, fields: dict[str, object]) -> None:
    partial = base.with_suffix(".partial")
    partial.write_text(json.dumps(fields))
    partial.rename(base.with_suffix(".json"))
