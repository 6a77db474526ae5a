"""Slots of a KV pool in device memory.

Each layer's keys and values of all slots stand one after another, so that attention reads any slot in place
(UniPinRec §1.8 lays its pool out alike: layers first).

Shapes: L layers, H heads, D head width, P positions of the memory, R rows of hidden states, C hidden width.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ensemble.kv.cuda.device_memory import DeviceAllocator
from ensemble.kv.slot_storage import SlotLayout, SlotStorage
from unipinrec.models.common.slot_attention import BLOCK

ALIGNMENT_BYTES = 256


@dataclass(frozen=True, slots=True)
class PositionMap:
    """What the positions of the memory are for: slots, spare slots, scratch blocks, and the null block.

    A spare slot serves the row of a batch that found no slot; a scratch block holds what a row generates.
    Padding is written to the last block.
    """

    slots: int
    spare: int
    """Spare slots, and scratch blocks: the most rows of a batch."""
    slot_size: int
    """Positions of a slot, a multiple of `BLOCK`."""

    @property
    def rows(self) -> int:
        """Return R; the last is the null row, which belongs to no slot."""
        return self.slots + self.spare + 1

    @property
    def positions(self) -> int:
        """Return P."""
        return (self.slots + self.spare) * self.slot_size + (self.spare + 1) * BLOCK

    def begin(self, slot: int) -> int:
        """Return where a slot begins; spare slots are numbered behind the others. Raises `ValueError` if
        there is no such slot, as when a batch has more rows than there are spare slots."""
        if not 0 <= slot < self.slots + self.spare:
            raise ValueError(f"slot is {slot}; allowed: 0 to {self.slots + self.spare - 1}")
        return slot * self.slot_size

    def scratch(self, row: int) -> int:
        """Return where the scratch block of a batch's row begins."""
        return (self.slots + self.spare) * self.slot_size + row * BLOCK

    @property
    def null_block(self) -> int:
        """Return where the block begins that holds padding."""
        return self.positions - BLOCK


class DeviceStorage:
    """Slots in device memory: keys, values and hidden state of each are found by its number."""

    def __init__(
        self, layout: SlotLayout, spare: int, allocator: DeviceAllocator, memory: Tensor, handle: str | None
    ) -> None:
        """Lays slots over the bytes of a memory, which other processes open by its handle."""
        self.layout = layout
        self.map = position_map(layout, spare)
        self._allocator = allocator
        self._handle = handle
        hidden, values = _parts(layout, self.map)
        split = _bytes(hidden)
        self.hidden_RC: Tensor = _view(memory[:split], hidden)
        """Hidden states after each slot's last position, in float32; the last row is the null row."""
        self.values_L2HPD: Tensor = _view(memory[split:], values)

    @classmethod
    def create(
        cls, folder: Path, layout: SlotLayout, spare: int, allocator: DeviceAllocator
    ) -> "DeviceStorage":
        """Allocate zeroed memory. Raises `MemoryError` if the device has no room for it."""
        memory = allocator.allocate(storage_bytes(layout, spare), folder)
        return cls(layout, spare, allocator, memory.bytes, memory.handle)

    @classmethod
    def private(cls, layout: SlotLayout, spare: int, allocator: DeviceAllocator) -> "DeviceStorage":
        """Return zeroed memory that no other process opens."""
        memory = torch.zeros(storage_bytes(layout, spare), dtype=torch.uint8, device=allocator.device)
        return cls(layout, spare, allocator, memory, None)

    @classmethod
    def open(cls, fields: Mapping[str, Any], allocator: DeviceAllocator) -> "DeviceStorage":
        """Map what another process described. Raises `ValueError` if it is on another device, and
        `FileNotFoundError` if its owner is gone."""
        if fields["device"] != str(allocator.device):
            raise ValueError(f"the KV pool's device is {fields['device']!r}; allowed: '{allocator.device}'")
        layout = SlotLayout.of(fields)
        spare = int(fields["spare"])
        memory = allocator.open(fields["handle"], storage_bytes(layout, spare))
        return cls(layout, spare, allocator, memory.bytes, memory.handle)

    @property
    def bytes(self) -> int:
        """Return the size of the whole memory."""
        return storage_bytes(self.layout, self.map.spare)

    def describe(self) -> dict[str, Any]:
        """Return the handle of the memory, and its layout."""
        return {
            "device": str(self._allocator.device),
            "handle": self._handle,
            "spare": self.map.spare,
            **asdict(self.layout),
        }

    def hidden(self, slot: int) -> Tensor:
        """Return the hidden state [C] beside a slot, in place."""
        return self.hidden_RC[slot]

    def copy(self, slot: int, source: SlotStorage, source_slot: int, length: int) -> None:
        """Take the first `length` positions and the hidden state of a slot, inside the device."""
        if not isinstance(source, DeviceStorage):
            raise TypeError(f"a slot of {type(source).__name__} cannot be copied into device memory")
        to, of = self.map.begin(slot), source.map.begin(source_slot)
        self.hidden_RC[slot] = source.hidden_RC[source_slot]
        self.values_L2HPD[:, :, :, to : to + length] = source.values_L2HPD[:, :, :, of : of + length]
        # As a pass over the slot leaves it: see `SlottedTrunk`.
        self.values_L2HPD[:, :, :, to + length : to + -(-length // BLOCK) * BLOCK] = 0

    def clear(self, slot: int) -> None:
        """Overwrite a slot and the hidden state beside it with zeros, inside the device."""
        begin = self.map.begin(slot)
        self.hidden_RC[slot] = 0
        self.values_L2HPD[:, :, :, begin : begin + self.map.slot_size] = 0

    def synchronize(self) -> None:
        """Return when the device has done all that was launched on it."""
        self._allocator.synchronize()


def position_map(layout: SlotLayout, spare: int) -> PositionMap:
    """Return the map of slots rounded up to whole blocks, beside `spare` others."""
    return PositionMap(layout.slots, spare, -(-layout.shape[3] // BLOCK) * BLOCK)


def storage_bytes(layout: SlotLayout, spare: int) -> int:
    """Return the bytes of the whole memory."""
    return sum(_bytes(part) for part in _parts(layout, position_map(layout, spare)))


Part = tuple[torch.dtype, tuple[int, ...]]


def _parts(layout: SlotLayout, where: PositionMap) -> tuple[Part, Part]:
    """Hidden states, then keys and values."""
    layers, both, heads, _, head_dim = layout.shape
    values = (layers, both, heads, where.positions, head_dim)
    return (torch.float32, (where.rows, layout.width)), (getattr(torch, layout.precision), values)


def _bytes(part: Part) -> int:
    """Rounded up, so that the next part begins where every kernel likes it to."""
    dtype, shape = part
    return -(-dtype.itemsize * math.prod(shape) // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def _view(memory: Tensor, part: Part) -> Tensor:
    dtype, shape = part
    return memory[: dtype.itemsize * math.prod(shape)].view(dtype).view(shape)
