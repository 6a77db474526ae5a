"""Slots of a KV pool in shared memory, in float32 or rounded.

Shapes: S slots, L layers, H heads, T positions (BOS first), D head width, C hidden width.
A slot is [L, 2, H, T, D]; beside it stands the hidden state after its last position, [C].
"""

import math
import mmap
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ensemble.kv.slot_storage import SlotLayout, SlotStorage
from ensemble.settings import SHARED_MEMORY

Parts = dict[str, tuple[torch.dtype, tuple[int, ...]]]


class SharedMemoryStorage:
    """Slots in a file of a memory-backed file system, mapped by all processes that use it.

    Spare slots, numbered behind the file's, are this process's own; they hold float32 and come into being
    when they are asked for.
    """

    def __init__(self, path: Path | None, layout: SlotLayout) -> None:
        """Map a file that exists; making it here would show zeros as if they were keys and values. Without a
        file, all slots are spare ones."""
        self.layout = layout
        self._path = path
        self._parts: dict[str, Tensor] = {}
        self._spare: list[dict[str, Tensor]] = []
        if path is not None:
            with path.open("r+b") as file:
                self._parts = _tensors(parts_of(layout), mmap.mmap(file.fileno(), bytes_of(layout)))

    @classmethod
    def create(cls, path: Path, layout: SlotLayout) -> "SharedMemoryStorage":
        """Allocate zeroed memory.

        Raises:
            MemoryError: the file system or the machine has not enough room; writing beyond it would kill
                this process or others.
        """
        needed, available = bytes_of(layout), _available_bytes(path.parent)
        if needed > available:
            raise MemoryError(
                f"the KV pool needs {needed >> 20} MiB in {path.parent}; "
                f"{available >> 20} MiB are free. "
                "Use fewer pool slots, or more shared memory (Docker: shm_size)"
            )
        with path.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, needed)
        return cls(path, layout)

    @property
    def bytes(self) -> int:
        """Size of the whole memory."""
        return bytes_of(self.layout)

    def describe(self) -> dict[str, Any]:
        """The file's name, beside the descriptor, and its layout."""
        return {"device": "cpu", "file": self._path and self._path.name, **self.layout.describe()}

    def read(self, slot: int, length: int) -> Tensor:
        """Keys and values [L, 2, H, length, D] in float32: a view where slots are exact, else a copy."""
        value = self._value(slot)[:, :, :, :length]
        if self._holds_exact(slot):
            return value
        if self.layout.precision == "bfloat16":
            return value.float()
        return value * self._parts["scales"][slot, :, :, :, :length].unsqueeze(-1)

    def hidden(self, slot: int) -> Tensor:
        """The hidden state [C] beside a slot, in place."""
        if slot < self.layout.slots:
            return self._parts["hidden"][slot]
        return self._spare_slot(slot)["hidden"][0]

    @contextmanager
    def write(self, slot: int, cached: int, length: int) -> Iterator[Tensor]:
        """A context whose tensor [L, 2, H, T, D] holds the first `cached` positions in float32; what it holds
        at its end up to `length` stays in the slot. The slot itself where slots are exact, else a copy that
        is rounded into it."""
        value = self._value(slot)
        if self._holds_exact(slot):
            yield value
            return
        whole = torch.zeros(value.shape)
        whole[:, :, :, :cached] = self.read(slot, cached)
        yield whole
        fresh = whole[:, :, :, cached:length]
        if self.layout.precision == "int8":
            # One scale for each position and head; a row of zeros keeps a scale that divides.
            scale = fresh.abs().amax(-1).clamp(min=1e-30) / 127
            self._parts["scales"][slot, :, :, :, cached:length] = scale
            fresh = (fresh / scale.unsqueeze(-1)).round()
        value[:, :, :, cached:length] = fresh.to(value.dtype)

    def copy(self, slot: int, source: SlotStorage, source_slot: int, length: int) -> None:
        """Take the first `length` positions and the hidden state of a slot, bit for bit."""
        if not isinstance(source, SharedMemoryStorage):
            raise TypeError(f"a slot of {type(source).__name__} cannot be copied into shared memory")
        self._parts["hidden"][slot] = source._parts["hidden"][source_slot]
        for name in self._parts.keys() - {"hidden"}:
            self._parts[name][slot, :, :, :, :length] = source._parts[name][source_slot, :, :, :, :length]

    def synchronize(self) -> None:
        """Return at once: stores of this process are seen in order."""

    def _value(self, slot: int) -> Tensor:
        if slot < self.layout.slots:
            return self._parts["values"][slot]
        return self._spare_slot(slot)["values"][0]

    def _holds_exact(self, slot: int) -> bool:
        """Whether a slot holds keys and values as they are computed, and can be computed in."""
        return slot >= self.layout.slots or self.layout.precision in ("float32", "float64")

    def _spare_slot(self, slot: int) -> dict[str, Tensor]:
        place = slot - self.layout.slots
        while place >= len(self._spare):
            whole = replace(self.layout, slots=1)
            parts = parts_of(whole if whole.precision == "float64" else replace(whole, precision="float32"))
            made = {name: torch.zeros(shape, dtype=dtype) for name, (dtype, shape) in parts.items()}
            self._spare.append(made)
        return self._spare[place]


class SharedMemory:
    """Memory of pools in files beside their descriptors, which processes map."""

    def create(self, base: Path, layout: SlotLayout) -> SharedMemoryStorage:
        """Zeroed memory in a file whose path begins with `base`."""
        return SharedMemoryStorage.create(base.with_suffix(".slots"), layout)

    def open(self, folder: Path, fields: Mapping[str, Any]) -> SharedMemoryStorage:
        """The mapped file that another process described."""
        if fields["device"] != "cpu":
            raise ValueError(f"the KV pool's device is {fields['device']!r}; allowed: 'cpu'")
        return SharedMemoryStorage(folder / fields["file"], SlotLayout.of(fields))

    def close(self, storage: SharedMemoryStorage) -> None:
        """Nothing to do: the mapping ends with its last view."""


def parts_of(layout: SlotLayout) -> Parts:
    """Tensors in the order in which the file holds them."""
    whole = (layout.slots, *layout.shape)
    computed = torch.float64 if layout.precision == "float64" else torch.float32
    parts: Parts = {"hidden": (computed, (layout.slots, layout.width))}
    if layout.precision == "int8":
        parts["scales"] = (torch.float32, whole[:-1])
    # Behind larger elements, so that every part begins at a multiple of its element's size.
    parts["values"] = (getattr(torch, layout.precision), whole)
    return parts


def bytes_of(layout: SlotLayout) -> int:
    """Bytes of the whole file."""
    return sum(dtype.itemsize * math.prod(shape) for dtype, shape in parts_of(layout).values())


def _tensors(parts: Parts, memory: mmap.mmap) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    begin = 0
    for name, (dtype, shape) in parts.items():
        count = math.prod(shape)
        tensors[name] = torch.frombuffer(memory, dtype=dtype, count=count, offset=begin).view(shape)
        begin += count * dtype.itemsize
    return tensors


def _available_bytes(folder: Path) -> int:
    """Free room in a folder; of a memory-backed one no more than what the machine has left."""
    room = os.statvfs(folder)
    free = room.f_bavail * room.f_frsize
    if folder.is_relative_to(SHARED_MEMORY):
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = min(
            free, next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable"))
        )
    return free
