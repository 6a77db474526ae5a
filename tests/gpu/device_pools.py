"""Pools in the memory of a real GPU, without an engine; run as a program, the process that owns one.

    python -m tests.gpu.device_pools FOLDER SLOTS

fills slot after slot with numbers that follow from a seed, tells each handle as a line of JSON, and waits for
a line of input before the next.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ensemble.kv.cuda.device_storage import DeviceStorage
from ensemble.kv.event_chain import EventChain
from ensemble.kv.pool import KVPool
from ensemble.kv.slot_storage import SlotLayout
from unipinrec.data.history import History

DEVICE = torch.device("cuda", 0)
LAYERS, HEADS, POSITIONS, HEAD_DIM = 4, 2, 129, 64
SPARE = 1
LEASE_MS = 600_000
INSTANCE = "retrieval_0"
BUSY = 4096
"""Rows of the square products that keep the device busy while a slot is being published."""


class DevicePools:
    """Pools in the memory of one GPU."""

    def __init__(self) -> None:
        # Collecting the tests must not need what a host without a GPU lacks.
        from ensemble.kv.cuda.cuda_memory import CudaAllocator

        self._allocator = CudaAllocator(DEVICE)

    def create(self, base: Path, layout: SlotLayout) -> DeviceStorage:
        return DeviceStorage.create(base.parent, layout, SPARE, self._allocator)

    def open(self, folder: Path, fields: Mapping[str, Any]) -> DeviceStorage:
        del folder
        return DeviceStorage.open(fields, self._allocator)

    def close(self, storage: DeviceStorage) -> None:
        """Nothing but the storage itself refers to the memory."""


def layout(slots: int) -> SlotLayout:
    shape = (LAYERS, 2, HEADS, POSITIONS, HEAD_DIM)
    return SlotLayout(slots=slots, shape=shape, width=HEADS * HEAD_DIM, precision="bfloat16")


def slot_bytes() -> int:
    """Of one slot, rounded up to blocks of 128 positions."""
    return LAYERS * 2 * HEADS * 256 * HEAD_DIM * 2


def content(seed: int) -> Tensor:
    """Keys and values [L, 2, H, T, D] that no other seed has, in host memory."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(LAYERS, 2, HEADS, POSITIONS, HEAD_DIM, generator=draw).bfloat16()


def slot_of(storage: DeviceStorage, slot: int) -> Tensor:
    begin = storage.map.begin(slot)
    return storage.values_L2HPD[:, :, :, begin : begin + POSITIONS]


def main() -> None:
    folder, slots = Path(sys.argv[1]), int(sys.argv[2])
    pool = KVPool(folder, INSTANCE, layout(slots), LEASE_MS, DevicePools())
    storage = pool.storage
    assert isinstance(storage, DeviceStorage)
    for seed in range(slots):
        slot = pool.acquire()
        assert slot is not None
        ready = content(seed).to(DEVICE)
        slow = torch.randn(BUSY, BUSY, device=DEVICE)
        torch.cuda.synchronize()
        # Launched and not waited for: a handle that leaves too early names a slot that is not there yet.
        for _ in range(20):
            slow = torch.tanh(slow @ slow)
        slot_of(storage, slot).copy_(ready + 0 * slow[0, 0].bfloat16())
        column = np.full(POSITIONS - 1, seed)
        history = History(item_row_N=column, actions_N=column, timestamp_N=column, surface_N=column)
        chain = EventChain(history, "bundle", 32)
        print(json.dumps(pool.publish(slot, chain).to_array().tolist()), flush=True)
        if not sys.stdin.readline():
            return
    # The pool stays until the process is killed.
    sys.stdin.readline()


if __name__ == "__main__":
    main()
