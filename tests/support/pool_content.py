"""What tests of the KV pool write into slots, told apart by numbers."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ensemble.kv.cuda.device_storage import DeviceStorage
from ensemble.kv.event_chain import EventChain
from ensemble.kv.pool import Handle, KVPool, MappedPool, PoolDirectory
from ensemble.kv.shared_memory import SharedMemoryStorage
from ensemble.kv.slot_storage import PoolMemory, SlotLayout, SlotStorage
from unipinrec.data.history import History

SHAPE = (2, 2, 1, 5, 3)
BLOCK = 2
POSITIONS = SHAPE[3]
MINUTE_MS = 60_000

MakeDirectory = Callable[[], PoolDirectory]
"""A reader of the test's pools that has mapped none yet."""

ReaderOf = Callable[[Handle], MappedPool]
"""The pool that a handle names, mapped by a reader of its own."""


def layout(slots: int, shape: tuple[int, int, int, int, int] = SHAPE) -> SlotLayout:
    return SlotLayout(slots=slots, shape=shape, width=4)


def chain_of(*events: float) -> EventChain:
    """The identity of a history whose events are told apart by one number each."""
    column = np.array(events, np.int64)
    history = History(item_row_N=column, actions_N=column, timestamp_N=column, surface_N=column)
    return EventChain(history, "bundle", BLOCK)


def chain(value: float, length: int = POSITIONS) -> EventChain:
    """That of a history of `length` positions, different for every `value`."""
    return chain_of(*[10 * value] * (length - 1))


def content(value: float, length: int) -> Tensor:
    """A slot's filled positions, each number different and all told apart by `value`."""
    shape = (*SHAPE[:3], length, SHAPE[4])
    return 1000 * value + torch.arange(float(np.prod(shape))).view(shape)


def put(pool: KVPool, value: float, length: int = POSITIONS, owner: bytes = b"") -> Handle:
    slot = pool.acquire(owner)
    assert slot is not None
    with filling(pool, slot, 0, length) as memory:
        memory[:, :, :, :length] = content(value, length)
    return pool.publish(slot, chain(value, length))


def filling(pool: KVPool, slot: int, cached: int, length: int) -> AbstractContextManager[Tensor]:
    """Keys and values [L, 2, H, T, D] of a slot, to fill from position `cached` up to `length`."""
    storage = pool.storage
    if isinstance(storage, SharedMemoryStorage):
        return storage.write(slot, cached, length)
    return nullcontext(_device_slot(storage, slot))


def content_of(pool: MappedPool, handle: Handle) -> Tensor:
    """Keys and values [L, 2, H, length, D] that a handle names."""
    return slot_content(pool.storage, handle.slot, handle.length)


def slot_content(storage: SlotStorage, slot: int, length: int) -> Tensor:
    """The first keys and values [L, 2, H, length, D] of a slot."""
    if isinstance(storage, SharedMemoryStorage):
        return storage.read(slot, length)
    return _device_slot(storage, slot)[:, :, :, :length]


def _device_slot(storage: SlotStorage, slot: int) -> Tensor:
    assert isinstance(storage, DeviceStorage)
    begin = storage.map.begin(slot)
    return storage.values_L2HPD[:, :, :, begin : begin + storage.map.slot_size]


def mapped(folder: Path, handle: Handle, memory: PoolMemory) -> MappedPool:
    pool = PoolDirectory(folder, memory).find(handle)
    assert pool is not None
    return pool
