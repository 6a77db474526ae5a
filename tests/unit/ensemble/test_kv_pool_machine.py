"""The KV pool under any order of events: a handle that holds shows what was written for it."""

import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from torch import Tensor

from ensemble.kv.pool import DEADLINE_NS, Handle, KVPool, PoolDirectory
from ensemble.kv.shared_memory import SharedMemory
from tests.support.pool_content import (
    MINUTE_MS,
    POSITIONS,
    chain,
    content,
    content_of,
    filling,
    layout,
    mapped,
)
from tests.support.stand_in_device import StandInPools


@dataclass
class Issued:
    """One handle that was given out, and what the slot showed then."""

    handle: Handle
    content: Tensor


class Slot:
    """What the protocol says of one slot: written, published, released and expired since it was acquired."""

    acquired = False
    published: Issued | None = None
    released = False
    expired = False

    @property
    def reusable(self) -> bool:
        return not self.acquired or self.released or self.expired


class PoolMachine(RuleBasedStateMachine):
    """Owner and reader in any order; the model beside them knows the protocol and none of the header."""

    kind: ClassVar[type[SharedMemory | StandInPools]]

    @initialize(slots=st.integers(1, 3))
    def start(self, slots: int) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.slots = slots
        self.memory = self.kind()
        self.reader = PoolDirectory(self.folder, self.memory)
        self.issued: list[Issued] = []
        self.writes = 0
        self.pools: list[KVPool] = []
        self.open_pool()

    def open_pool(self) -> None:
        self.pool = KVPool(self.folder, "retrieval_0", layout(self.slots), MINUTE_MS, self.memory)
        self.pools.append(self.pool)
        self.model = [Slot() for _ in range(self.slots)]
        self.by_age = list(range(self.slots))

    def reusable_slot(self) -> int | None:
        return next((slot for slot in self.by_age if self.model[slot].reusable), None)

    @rule()
    def acquire(self) -> None:
        expected = self.reusable_slot()
        assert self.pool.acquire() == expected
        if expected is None:
            return
        self.by_age.remove(expected)
        self.by_age.append(expected)
        self.model[expected] = Slot()
        self.model[expected].acquired = True
        self.writes += 1
        with filling(self.pool, expected, 0, POSITIONS) as memory:
            memory[:] = -self.writes

    @rule(length=st.integers(1, POSITIONS), data=st.data())
    def write_and_publish(self, length: int, data: st.DataObject) -> None:
        writing = [slot for slot, state in enumerate(self.model) if state.acquired and not state.published]
        if not writing:
            return
        slot = data.draw(st.sampled_from(writing))
        value = len(self.issued) + 1
        written = content(value, length)
        with filling(self.pool, slot, 0, length) as memory:
            memory[:, :, :, :length] = written
        self.model[slot].published = Issued(self.pool.publish(slot, chain(value, length)), written)
        self.model[slot].released = False
        self.model[slot].expired = False
        self.issued.append(self.model[slot].published)

    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        held = [state for state in self.model if state.published and not state.expired]
        if not held:
            return
        state = data.draw(st.sampled_from(held))
        handle = state.published.handle
        mapped(self.folder, handle, self.memory).release(handle)
        state.released = True

    @rule(data=st.data())
    def let_the_lease_run_out(self, data: st.DataObject) -> None:
        acquired = [slot for slot, state in enumerate(self.model) if state.acquired]
        if not acquired:
            return
        slot = data.draw(st.sampled_from(acquired))
        self.pool.header_SX[slot, DEADLINE_NS] = time.monotonic_ns() - 1
        self.model[slot].expired = True

    @rule()
    def restart(self) -> None:
        older = {issued.handle for issued in self.issued}
        self.open_pool()
        fresh = PoolDirectory(self.folder, self.memory)
        assert all(fresh.find(handle) is None for handle in older)
        files = {path.name for path in self.folder.glob("kv-*")}
        base = f"kv-retrieval_0-{self.pool.epoch}"
        assert files - {f"{base}.slots"} == {f"{base}.json", f"{base}.header"}

    @invariant()
    def a_handle_that_holds_shows_what_was_written_for_it(self) -> None:
        for issued in self.issued:
            pool = self.reader.find(issued.handle)
            if pool is not None and pool.holds(issued.handle):
                assert torch.equal(content_of(pool, issued.handle), issued.content)

    @invariant()
    def the_running_pool_holds_each_slots_latest_handle_until_it_expires(self) -> None:
        expected = [
            state.published.handle
            for state in self.model
            if state.published is not None and not state.expired
        ]
        found = [
            issued.handle
            for issued in self.issued
            if issued.handle.epoch == self.pool.epoch
            and mapped(self.folder, issued.handle, self.memory).holds(issued.handle)
        ]
        assert sorted(found, key=lambda handle: handle.slot) == sorted(
            expected, key=lambda handle: handle.slot
        )

    @invariant()
    def no_two_contents_share_an_epoch_and_a_generation(self) -> None:
        named = {(issued.handle.epoch, issued.handle.generation) for issued in self.issued}
        assert len(named) == len(self.issued)

    def teardown(self) -> None:
        for pool in self.pools:
            pool.close()
        shutil.rmtree(self.folder)


class SharedMemoryMachine(PoolMachine):
    kind = SharedMemory


class DeviceMemoryMachine(PoolMachine):
    kind = StandInPools


BOUNDS = settings(max_examples=40, stateful_step_count=25, deadline=None)
TestSharedMemory = SharedMemoryMachine.TestCase
TestSharedMemory.settings = BOUNDS
TestDeviceMemory = DeviceMemoryMachine.TestCase
TestDeviceMemory.settings = BOUNDS
