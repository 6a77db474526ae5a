"""Where the slots of a KV pool live, and in which precision.

Shapes: S slots, L layers, H heads, T positions (BOS first), D head width, C hidden width.
A slot is [L, 2, H, T, D]; beside it stands the hidden state after its last position, [C].
"""

import math
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

SHARED_MEMORY = Path("/dev", "shm")

Precision = Literal["float32", "bfloat16", "int8"]
"""What a server may keep keys and values in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotLayout:
    """Sizes of a pool's memory; both sides of a mapping must agree on all of them."""

    slots: int
    shape: tuple[int, int, int, int, int]
    """[L, 2, H, T, D] of one slot."""
    width: int
    """C of the hidden states."""
    precision: Precision | Literal["float64"] = "float32"
    """float64 is for models that compute in it."""

    def parts(self) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        """Tensors in the order in which the file holds them."""
        whole = (self.slots, *self.shape)
        computed = torch.float64 if self.precision == "float64" else torch.float32
        parts: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {}
        parts["hidden"] = (computed, (self.slots, self.width))
        if self.precision == "int8":
            parts["scales"] = (torch.float32, whole[:-1])
        # Behind larger elements, so that every part begins at a multiple of its element's size.
        parts["values"] = (getattr(torch, self.precision), whole)
        return parts

    @property
    def is_exact(self) -> bool:
        """Whether slots hold keys and values as they are computed, and can be computed in."""
        return self.precision in ("float32", "float64")

    @property
    def bytes(self) -> int:
        """Bytes of the whole pool."""
        return sum(dtype.itemsize * math.prod(shape) for dtype, shape in self.parts().values())


class SlotStorage(Protocol):
    """What a pool needs of its memory. Another device adds another class like `SharedMemoryStorage`."""

    layout: SlotLayout

    def describe(self) -> dict[str, Any]:
        """What another process needs to map the same memory."""

    def read(self, slot: int, length: int) -> Tensor:
        """Keys and values [L, 2, H, length, D] in float32; in place where the precision allows."""

    def hidden(self, slot: int) -> Tensor:
        """The hidden state [C] beside a slot, in place."""

    def write(self, slot: int, cached: int, length: int) -> Any:
        """A context whose tensor [L, 2, H, T, D] holds the first `cached` positions in float32; what it holds
        at its end up to `length` stays in the slot."""

    def copy(self, slot: int, source: "SlotStorage", source_slot: int, length: int) -> None:
        """Take the first `length` positions and the hidden state of a slot of equal layout."""


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


class SharedMemoryStorage:
    """Slots in a file of a memory-backed file system, mapped by both processes."""

    def __init__(self, path: Path, layout: SlotLayout) -> None:
        """Map a file that exists; making it here would show zeros as if they were keys and values."""
        self.layout = layout
        self._path = path
        with path.open("r+b") as file:
            memory = mmap.mmap(file.fileno(), layout.bytes)
        self._parts: dict[str, Tensor] = {}
        begin = 0
        for name, (dtype, shape) in layout.parts().items():
            count = math.prod(shape)
            part = torch.frombuffer(memory, dtype=dtype, count=count, offset=begin)
            self._parts[name] = part.view(shape)
            begin += count * dtype.itemsize

    @classmethod
    def create(cls, path: Path, layout: SlotLayout) -> "SharedMemoryStorage":
        """Allocate zeroed memory.

        Raises:
            MemoryError: the file system or the machine has not enough room; writing beyond it would kill
                this process or others.
        """
        available = _available_bytes(path.parent)
        if layout.bytes > available:
            raise MemoryError(
                f"the KV pool needs {layout.bytes >> 20} MiB in {path.parent}; "
                f"{available >> 20} MiB are free. "
                "Use fewer pool slots, or more shared memory (Docker: shm_size)"
            )
        with path.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, layout.bytes)
        return cls(path, layout)

    def describe(self) -> dict[str, Any]:
        """The file's name, beside the descriptor, and its layout."""
        layout = {name: getattr(self.layout, name) for name in ("slots", "shape", "width", "precision")}
        return {"device": "cpu", "file": self._path.name, **layout}

    def read(self, slot: int, length: int) -> Tensor:
        """See `SlotStorage`; a view where slots are exact, else a copy."""
        value = self._parts["values"][slot, :, :, :, :length]
        if self.layout.is_exact:
            return value
        if self.layout.precision == "bfloat16":
            return value.float()
        return value * self._parts["scales"][slot, :, :, :, :length].unsqueeze(-1)

    def hidden(self, slot: int) -> Tensor:
        """See `SlotStorage`."""
        return self._parts["hidden"][slot]

    @contextmanager
    def write(self, slot: int, cached: int, length: int) -> Iterator[Tensor]:
        """See `SlotStorage`; the slot itself where slots are exact, else a copy that is rounded into it."""
        value = self._parts["values"][slot]
        if self.layout.is_exact:
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
        """See `SlotStorage`; bit for bit, whatever the precision."""
        if not isinstance(source, SharedMemoryStorage):
            raise TypeError(f"a slot of {type(source).__name__} cannot be copied into shared memory")
        self._parts["hidden"][slot] = source._parts["hidden"][source_slot]
        for name in self._parts.keys() - {"hidden"}:
            self._parts[name][slot, :, :, :, :length] = source._parts[name][source_slot, :, :, :, :length]
