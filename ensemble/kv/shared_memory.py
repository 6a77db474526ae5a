"""Slots of a KV pool in shared memory, in float32 or rounded.

Shapes: S slots, L layers, H heads, T positions (BOS first), D head width, C hidden width.
A slot is [L, 2, H, T, D]; beside it stands the hidden state after its last position, [C].
"""

import math
import mmap
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor

from ensemble.kv.slot_storage import SlotLayout, SlotStorage
from ensemble.settings import SHARED_MEMORY

Parts = dict[str, tuple[torch.dtype, tuple[int, ...]]]


class SharedMemoryStorage:
    """Slots in a file of a memory-backed file system, mapped by all processes that use it. Spare slots hold
    float32 and come into being when they are asked for."""

    def __init__(self, path: Path | None, layout: SlotLayout) -> None:
        """Map a file that exists; making it here would show zeros as if they were keys and values. Without a
        file, all slots are spare ones."""
        self.layout = layout
        self._path = path
        self._parts: dict[str, Tensor] = {}
        self._spare: dict[int, dict[str, Tensor]] = {}
        if path is None:
            return
        with path.open("r+b") as file:
            memory = mmap.mmap(file.fileno(), bytes_of(layout))
        begin = 0
        for name, (dtype, shape) in parts_of(layout).items():
            count = math.prod(shape)
            part = torch.frombuffer(memory, dtype=dtype, count=count, offset=begin)
            self._parts[name] = part.view(shape)
            begin += count * dtype.itemsize

    @property
    def bytes(self) -> int:
        """Size of the whole memory."""
        return bytes_of(self.layout)

    def describe(self) -> dict[str, Any]:
        """Return the file's name, beside the descriptor, and its layout."""
        return {"device": "cpu", "file": self._path and self._path.name, **asdict(self.layout)}

    def read(self, slot: int, length: int) -> Tensor:
        """Return keys and values [L, 2, H, length, D] in float32: a view of exact slots, else a copy."""
        value = self._part("values", slot)[:, :, :, :length]
        if self._holds_exact(slot):
            return value
        if self.layout.precision == "bfloat16":
            return value.float()
        return value * self._parts["scales"][slot, :, :, :, :length].unsqueeze(-1)

    def hidden(self, slot: int) -> Tensor:
        """Return the hidden state [C] beside a slot, in place."""
        return self._part("hidden", slot)

    @contextmanager
    def write(self, slot: int, cached: int, length: int) -> Iterator[Tensor]:
        """Yield a tensor [L, 2, H, T, D] that holds the first `cached` positions in float32; what it holds at
        the end up to `length` stays in the slot. It is the slot itself where slots are exact, else a copy
        that is rounded into it."""
        value = self._part("values", slot)
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

    def clear(self, slot: int) -> None:
        """Overwrite a slot, its scales and its hidden state with zeros. A spare one goes."""
        if slot >= self.layout.slots:
            for part in self._spare.pop(slot, {}).values():
                part.zero_()
            return
        for part in self._parts.values():
            part[slot].zero_()

    def synchronize(self) -> None:
        """Return at once: stores of this process are seen in order."""

    def _part(self, name: str, slot: int) -> Tensor:
        """One of a slot's parts, in place."""
        if slot < self.layout.slots:
            return self._parts[name][slot]
        if slot not in self._spare:
            layout = replace(self.layout, slots=1)
            exact = layout if layout.precision == "float64" else replace(layout, precision="float32")
            parts = parts_of(exact).items()
            self._spare[slot] = {part: torch.zeros(shape, dtype=dtype) for part, (dtype, shape) in parts}
        return self._spare[slot][name][0]

    def _holds_exact(self, slot: int) -> bool:
        """Whether a slot holds keys and values as they are computed, and can be computed in."""
        return slot >= self.layout.slots or self.layout.precision in ("float32", "float64")


class SharedMemory:
    """Memory of pools in files beside their descriptors, which processes map."""

    def create(self, base: Path, layout: SlotLayout) -> SharedMemoryStorage:
        """Return zeroed memory in a file whose path begins with `base`. Raises `MemoryError` if the file
        system or the machine has too little free; writing beyond it would kill this process or others."""
        path, needed = base.with_suffix(".slots"), bytes_of(layout)
        available = shutil.disk_usage(path.parent).free
        if path.is_relative_to(SHARED_MEMORY):
            available = min(available, psutil.virtual_memory().available)
        if needed > available:
            raise MemoryError(
                f"the KV pool needs {needed >> 20} MiB in {path.parent}; "
                f"{available >> 20} MiB are free. "
                "Use fewer pool slots, or more shared memory (Docker: shm_size)"
            )
        with path.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, needed)
        return SharedMemoryStorage(path, layout)

    def open(self, folder: Path, fields: Mapping[str, Any]) -> SharedMemoryStorage:
        """Return the mapped file that another process described."""
        if fields["device"] != "cpu":
            raise ValueError(f"the KV pool's device is {fields['device']!r}; allowed: 'cpu'")
        return SharedMemoryStorage(folder / fields["file"], SlotLayout.of(fields))

    def close(self, storage: SharedMemoryStorage) -> None:
        """Do nothing: the mapping ends with its last view."""


def parts_of(layout: SlotLayout) -> Parts:
    """Return the tensors of a pool, in the order in which the file holds them."""
    whole = (layout.slots, *layout.shape)
    computed = torch.float64 if layout.precision == "float64" else torch.float32
    parts: Parts = {"hidden": (computed, (layout.slots, layout.width))}
    if layout.precision == "int8":
        parts["scales"] = (torch.float32, whole[:-1])
    # Behind larger elements, so that every part begins at a multiple of its element's size.
    parts["values"] = (getattr(torch, layout.precision), whole)
    return parts


def bytes_of(layout: SlotLayout) -> int:
    """Return the bytes of the whole file."""
    return sum(dtype.itemsize * math.prod(shape) for dtype, shape in parts_of(layout).values())
