"""One pool in device memory, two processes: what was published is read, whatever becomes of the owner."""

import gc
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from ensemble.kv.cuda.device_storage import DeviceStorage
from ensemble.kv.pool import Handle, MappedPool, PoolDirectory
from ensemble.settings import ROOT
from tests.gpu.conftest import LEAK_BYTES, DeviceMemoryWatch
from tests.gpu.device_pools import DevicePools, content, slot_bytes, slot_of


class Owner:
    """The process of `device_pools`."""

    def __init__(self, folder: Path, slots: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.gpu.device_pools", str(folder), str(slots)],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def published(self) -> Handle:
        """The handle of the next slot."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the owner ended with {self._process.wait(timeout=10)}"
        return Handle.from_array(np.array(json.loads(line)))

    def go_on(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(timeout=30)


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Callable[[int], Owner]]:
    owners: list[Owner] = []

    def start(slots: int) -> Owner:
        owners.append(Owner(tmp_path, slots))
        return owners[-1]

    yield start
    for owner in owners:
        owner.kill()


@pytest.fixture
def directory(tmp_path: Path, device: torch.device) -> Iterator[PoolDirectory]:
    torch.ones(1, device=device)
    directory = PoolDirectory(tmp_path, DevicePools())
    yield directory
    directory.close()


def held(pool: MappedPool | None, handle: Handle) -> torch.Tensor:
    """Keys and values of a handle's slot, as they are on the device, copied to the host."""
    assert pool is not None
    assert pool.holds(handle)
    assert isinstance(pool.storage, DeviceStorage)
    return slot_of(pool.storage, handle.slot).cpu()


def test_what_a_handle_names_is_complete_in_the_other_process(
    own: Callable[[int], Owner], directory: PoolDirectory
) -> None:
    """The owner's device is busy when it publishes: a handle that came early would show zeros."""
    owner = own(8)
    for seed in range(8):
        handle = owner.published()
        assert torch.equal(held(directory.find(handle), handle), content(seed))
        owner.go_on()


def test_a_killed_owners_slots_are_read_and_then_its_memory_is_given_back(
    own: Callable[[int], Owner], directory: PoolDirectory, tmp_path: Path, device_memory: DeviceMemoryWatch
) -> None:
    slots = (512 << 20) // slot_bytes()
    owner = own(slots)
    handle = owner.published()
    pool = directory.find(handle)
    assert torch.equal(held(pool, handle), content(0))
    owner.kill()
    for _ in range(100):
        assert torch.equal(held(pool, handle), content(0))
    del pool
    for descriptor in tmp_path.glob("kv-*.json"):
        descriptor.unlink()
    directory.forget_gone()
    assert device_memory.missing < LEAK_BYTES


def test_a_restarted_owner_gets_more_than_half_of_the_memory_again(
    own: Callable[[int], Owner], directory: PoolDirectory
) -> None:
    """A reader that kept the predecessor's memory would leave no room for the successor's."""
    free, _ = torch.cuda.mem_get_info(0)
    slots = int(0.6 * free) // slot_bytes()
    directory.watch()
    first = own(slots)
    handle = first.published()
    assert torch.equal(held(directory.find(handle), handle), content(0))
    first.kill()
    gc.collect()
    second = own(slots)
    again = second.published()
    assert again.epoch != handle.epoch
    assert directory.find(handle) is None
    assert torch.equal(held(directory.find(again), again), content(0))
