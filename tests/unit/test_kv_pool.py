"""The KV pool: a handle that holds shows what was written for it, whatever happened to the slots since."""

import json
import multiprocessing
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from torch import Tensor

from ensemble.event_chain import EventChain
from ensemble.kv_pool import (
    DEADLINE_NS,
    GENERATION,
    LEASE,
    LENGTH,
    RELEASED,
    STATE,
    WRITING,
    Handle,
    KVPool,
    MappedPool,
    PoolDirectory,
    no_slot,
    slot_layout,
)
from ensemble.slot_storage import SlotLayout
from unipinrec.config import preset
from unipinrec.data.history import History

SHAPE = (2, 2, 1, 5, 3)
BLOCK = 2
POSITIONS = SHAPE[3]
MINUTE_MS = 60_000


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


@pytest.fixture
def make_pool(tmp_path: Path) -> Iterator[Callable[..., KVPool]]:
    made: list[KVPool] = []

    def make(slots: int = 2, lease_ms: int = MINUTE_MS, instance: str = "retrieval_0") -> KVPool:
        made.append(KVPool(tmp_path, instance, layout(slots), lease_ms))
        return made[-1]

    yield make
    for pool in made:
        pool.close()


def content(value: float, length: int) -> Tensor:
    """A slot's filled positions, each number different and all told apart by `value`."""
    shape = (*SHAPE[:3], length, SHAPE[4])
    return 1000 * value + torch.arange(float(np.prod(shape))).view(shape)


def put(pool: KVPool, value: float, length: int = POSITIONS) -> Handle:
    slot = pool.acquire()
    assert slot is not None
    with pool.write(slot, 0, length) as memory:
        memory[:, :, :, :length] = content(value, length)
    return pool.publish(slot, chain(value, length))


def mapped(folder: Path, handle: Handle) -> MappedPool:
    pool = PoolDirectory(folder).find(handle)
    assert pool is not None
    return pool


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

    @initialize(slots=st.integers(1, 3))
    def start(self, slots: int) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.slots = slots
        self.reader = PoolDirectory(self.folder)
        self.issued: list[Issued] = []
        self.writes = 0
        self.pools: list[KVPool] = []
        self.open_pool()

    def open_pool(self) -> None:
        self.pool = KVPool(self.folder, "retrieval_0", layout(self.slots), MINUTE_MS)
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
        with self.pool.write(expected, 0, POSITIONS) as memory:
            memory[:] = -self.writes

    @rule(length=st.integers(1, POSITIONS), data=st.data())
    def write_and_publish(self, length: int, data: st.DataObject) -> None:
        writing = [slot for slot, state in enumerate(self.model) if state.acquired and not state.published]
        if not writing:
            return
        slot = data.draw(st.sampled_from(writing))
        value = len(self.issued) + 1
        written = content(value, length)
        with self.pool.write(slot, 0, length) as memory:
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
        mapped(self.folder, state.published.handle).release(state.published.handle)
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
        fresh = PoolDirectory(self.folder)
        assert all(fresh.find(handle) is None for handle in older)
        files = {path.name for path in self.folder.iterdir()}
        base = f"kv-retrieval_0-{self.pool.epoch}"
        assert files == {f"{base}.json", f"{base}.header", f"{base}.slots"}

    @invariant()
    def a_handle_that_holds_shows_what_was_written_for_it(self) -> None:
        for issued in self.issued:
            pool = self.reader.find(issued.handle)
            if pool is not None and pool.holds(issued.handle):
                assert torch.equal(pool.view(issued.handle), issued.content)

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
            and mapped(self.folder, issued.handle).holds(issued.handle)
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


TestPoolMachine = PoolMachine.TestCase
TestPoolMachine.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)


def test_a_lease_ends_by_itself(make_pool: Callable[..., KVPool], tmp_path: Path) -> None:
    pool = make_pool(slots=1, lease_ms=200)
    handle = put(pool, 1)
    assert mapped(tmp_path, handle).holds(handle)
    assert pool.acquire() is None
    time.sleep(0.25)
    assert not mapped(tmp_path, handle).holds(handle)
    assert pool.acquire() == handle.slot


def test_an_unpublished_slot_is_leased_too(make_pool: Callable[..., KVPool]) -> None:
    pool = make_pool(slots=1, lease_ms=100)
    assert pool.acquire() == 0
    assert pool.acquire() is None
    time.sleep(0.15)
    assert pool.acquire() == 0


def test_the_least_recently_used_released_slot_is_reused_first(
    make_pool: Callable[..., KVPool], tmp_path: Path
) -> None:
    pool = make_pool(slots=3)
    first, second, third = (put(pool, value) for value in range(3))
    reader = mapped(tmp_path, first)
    for handle in (third, first):
        reader.release(handle)
    assert pool.acquire() == first.slot
    assert pool.acquire() == third.slot
    assert pool.acquire() is None
    reader.release(second)
    assert pool.acquire() == second.slot


def test_a_free_slot_goes_before_a_released_one(make_pool: Callable[..., KVPool], tmp_path: Path) -> None:
    pool = make_pool(slots=3)
    handle = put(pool, 1)
    mapped(tmp_path, handle).release(handle)
    assert [pool.acquire(), pool.acquire(), pool.acquire()] == [1, 2, 0]


def test_a_released_slot_stays_readable_until_it_is_reused(
    make_pool: Callable[..., KVPool], tmp_path: Path
) -> None:
    pool = make_pool(slots=1)
    handle = put(pool, 4, length=2)
    reader = mapped(tmp_path, handle)
    reader.release(handle)
    assert reader.holds(handle)
    assert torch.equal(reader.view(handle), content(4, 2))
    pool.acquire()
    assert not reader.holds(handle)


def test_releasing_a_stale_handle_does_not_end_the_newer_lease(
    make_pool: Callable[..., KVPool], tmp_path: Path
) -> None:
    pool = make_pool(slots=1)
    old = put(pool, 1)
    reader = mapped(tmp_path, old)
    reader.release(old)
    new = put(pool, 2)
    reader.release(old)
    assert pool.acquire() is None
    assert reader.holds(new)


def test_content_being_written_is_not_held(make_pool: Callable[..., KVPool], tmp_path: Path) -> None:
    pool = make_pool(slots=1)
    old = put(pool, 1)
    reader = mapped(tmp_path, old)
    reader.release(old)
    slot = pool.acquire()
    assert slot == old.slot
    next_generation = replace(old, generation=old.generation + 1)
    assert not reader.holds(next_generation)
    published = pool.publish(slot, chain(2))
    assert replace(published, lease=old.lease) == next_generation
    assert reader.holds(published)


@pytest.mark.parametrize(
    "tamper",
    [
        lambda handle: replace(handle, epoch=0),
        lambda handle: replace(handle, epoch=-handle.epoch),
        lambda handle: replace(handle, epoch=handle.epoch + 1),
        lambda handle: replace(handle, slot=0),
        lambda handle: replace(handle, slot=-1),
        lambda handle: replace(handle, slot=2),
        lambda handle: replace(handle, slot=2**62),
        lambda handle: replace(handle, generation=0),
        lambda handle: replace(handle, generation=handle.generation - 1),
        lambda handle: replace(handle, generation=handle.generation + 1),
        lambda handle: replace(handle, length=4),
        lambda handle: replace(handle, length=0),
        lambda handle: replace(handle, length=-1),
    ],
)
def test_a_tampered_handle_is_refused(
    make_pool: Callable[..., KVPool], tmp_path: Path, tamper: Callable[[Handle], Handle]
) -> None:
    pool = make_pool(slots=2)
    older = [put(pool, 1, length=3), put(pool, 2, length=3)]
    reader = mapped(tmp_path, older[0])
    for handle in older:
        reader.release(handle)
    put(pool, 3, length=3)
    handle = put(pool, 4, length=3)
    assert handle.slot == 1
    assert reader.holds(handle)
    assert not reader.holds(tamper(handle))


@pytest.mark.parametrize("epoch", [0, -1, 7])
def test_no_pool_is_found_for_a_foreign_epoch(
    make_pool: Callable[..., KVPool], tmp_path: Path, epoch: int
) -> None:
    handle = put(make_pool(), 1)
    assert PoolDirectory(tmp_path).find(replace(handle, epoch=epoch)) is None


def test_the_handle_of_a_full_pool_is_found_nowhere(make_pool: Callable[..., KVPool], tmp_path: Path) -> None:
    make_pool()
    handle = no_slot(3)
    assert handle == Handle(epoch=0, slot=-1, generation=0, length=3, lease=0, reused=0)
    assert PoolDirectory(tmp_path).find(handle) is None


def test_a_handle_travels_as_six_integers() -> None:
    handle = Handle(epoch=2**62, slot=3, generation=2**40, length=129, lease=2**41, reused=17)
    array = handle.to_array()
    assert array.tolist() == [2**62, 3, 2**40, 129, 2**41, 17]
    assert array.dtype == np.int64
    assert Handle.from_array(array) == handle


def test_meeting_a_new_epoch_ends_the_mapping_of_the_old_one(
    make_pool: Callable[..., KVPool], tmp_path: Path
) -> None:
    directory = PoolDirectory(tmp_path)
    old = put(make_pool(), 1)
    reader = directory.find(old)
    assert reader is not None
    new = put(make_pool(), 2)
    assert new.epoch != old.epoch
    found = directory.find(new)
    assert found is not None
    assert torch.equal(found.view(new), content(2, POSITIONS))
    assert directory.find(old) is None
    assert reader.holds(old)
    assert torch.equal(reader.view(old), content(1, POSITIONS))
    assert not found.holds(old)


def test_a_restart_leaves_other_instances_alone(make_pool: Callable[..., KVPool], tmp_path: Path) -> None:
    directory = PoolDirectory(tmp_path)
    other = put(make_pool(instance="retrieval_1"), 1)
    make_pool(instance="retrieval_0")
    own = put(make_pool(instance="retrieval_0"), 2)
    for handle, value in ((own, 2), (other, 1)):
        found = directory.find(handle)
        assert found is not None
        assert torch.equal(found.view(handle), content(value, POSITIONS))


def test_closing_removes_the_files_and_leaves_mappings_valid(
    make_pool: Callable[..., KVPool], tmp_path: Path
) -> None:
    pool = make_pool()
    handle = put(pool, 1)
    reader = mapped(tmp_path, handle)
    pool.close()
    assert list(tmp_path.iterdir()) == []
    assert torch.equal(reader.view(handle), content(1, POSITIONS))
    assert PoolDirectory(tmp_path).find(handle) is None
    pool.close()


def test_a_pool_that_lost_its_header_is_gone(make_pool: Callable[..., KVPool], tmp_path: Path) -> None:
    handle = put(make_pool(), 1)
    next(tmp_path.glob("*.header")).unlink()
    assert PoolDirectory(tmp_path).find(handle) is None


def test_memory_that_does_not_fit_is_refused_before_it_is_touched(tmp_path: Path) -> None:
    shape = (2, 2, 1, 2**40, 3)
    needed_mib = 4 * (12 * 2**40 + 4) * 4 // 2**20
    message = rf"^the KV pool needs {needed_mib} MiB in {tmp_path}; \d+ MiB are free\. Use fewer pool slots, "
    with pytest.raises(MemoryError, match=message):
        KVPool(tmp_path, "retrieval_0", layout(4, shape), MINUTE_MS)
    assert not list(tmp_path.glob("*.slots"))
    assert not list(tmp_path.glob("*.json"))


def test_a_pool_on_another_device_is_refused(make_pool: Callable[..., KVPool], tmp_path: Path) -> None:
    handle = put(make_pool(), 1)
    descriptor = next(tmp_path.glob("*.json"))
    descriptor.write_text(json.dumps({**json.loads(descriptor.read_text()), "device": "tpu"}))
    with pytest.raises(ValueError, match=r"^the KV pool's device is 'tpu'; allowed: 'cpu'$"):
        PoolDirectory(tmp_path).find(handle)


def test_a_slot_has_room_for_bos_and_the_longest_history() -> None:
    config = preset("demo", num_items=10, num_actions=2)
    found = slot_layout(config, slots=3, precision="float32")
    assert found.shape == (4, 2, 4, 1 + 128, 128 // 4)
    assert found.bytes == 4 * 3 * (128 + 4 * 2 * 129 * 128)


def test_rounded_slots_take_less_memory() -> None:
    config = preset("bench-cpu", num_items=10, num_actions=2)
    sizes = {
        precision: slot_layout(config, slots=2, precision=precision).bytes
        for precision in ("float32", "bfloat16", "int8")
    }
    assert sizes["float32"] == 2 * (256 * 4 + 6 * 2 * 513 * 256 * 4)
    assert sizes["bfloat16"] == 2 * (256 * 4 + 6 * 2 * 513 * 256 * 2)
    assert sizes["int8"] == 2 * (256 * 4 + 6 * 2 * 513 * (256 + 4 * 4))


def test_the_generation_changes_before_the_slot_may_be_written(
    make_pool: Callable[..., KVPool], tmp_path: Path
) -> None:
    pool = make_pool(slots=1)
    handle = put(pool, 1, length=3)
    mapped(tmp_path, handle).release(handle)
    pool.acquire()
    header = pool.header_SX[0]
    assert header[[GENERATION, STATE, LENGTH, RELEASED]].tolist() == [2, WRITING, 3, handle.lease]
    assert header[LEASE] > handle.lease
    assert header[DEADLINE_NS] > time.monotonic_ns()


def read_and_release(folder: Path, handles: list[Handle]) -> list[tuple[bool, list[float]]]:
    """What another process sees, and its release of every handle that holds."""
    directory = PoolDirectory(folder)
    seen = []
    for handle in handles:
        pool = directory.find(handle)
        holds = pool is not None and pool.holds(handle)
        seen.append((holds, pool.view(handle).flatten().tolist() if pool is not None and holds else []))
        if pool is not None and holds:
            pool.release(handle)
    return seen


def test_another_process_reads_in_place_and_its_release_frees_the_slots(
    make_pool: Callable[..., KVPool], tmp_path: Path
) -> None:
    pool = make_pool(slots=2)
    stale = put(pool, 1)
    mapped(tmp_path, stale).release(stale)
    handles = [put(pool, 2, length=1), put(pool, 3, length=4)]
    assert pool.acquire() is None
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as child:
        first = child.submit(read_and_release, tmp_path, [stale, *handles]).result()
        later = put(pool, 4, length=2)
        second = child.submit(read_and_release, tmp_path, [*handles, later]).result()
    assert first == [
        (False, []),
        (True, content(2, 1).flatten().tolist()),
        (True, content(3, 4).flatten().tolist()),
    ]
    assert later.slot == handles[0].slot
    assert second == [
        (False, []),
        (True, content(3, 4).flatten().tolist()),
        (True, content(4, 2).flatten().tolist()),
    ]


def test_slots_that_vanish_before_they_are_mapped_are_not_found_as_zeros(tmp_path: Path) -> None:
    pool = KVPool(tmp_path, "retrieval_0_0", layout(2), lease_ms=60_000)
    handle = put(pool, 1, length=3)
    next(tmp_path.glob("*.slots")).unlink()
    assert PoolDirectory(tmp_path).find(handle) is None
    assert list(tmp_path.glob("*.slots")) == []


def test_an_instance_name_with_dots_and_dashes_works_and_removes_only_its_own(tmp_path: Path) -> None:
    other = KVPool(tmp_path, "retrieval-v1.0-b", layout(1), lease_ms=60_000)
    first = KVPool(tmp_path, "retrieval-v1.0", layout(1), lease_ms=60_000)
    second = KVPool(tmp_path, "retrieval-v1.0", layout(1), lease_ms=60_000)
    epochs = {int(path.stem.rpartition("-")[2]) for path in tmp_path.glob("*.json")}
    assert epochs == {other.epoch, second.epoch}
    assert first.epoch not in epochs
    second.close()
    assert {path.stem.rpartition("-")[2] for path in tmp_path.iterdir()} == {str(other.epoch)}


def follow(pool: KVPool, events: EventChain, value: float) -> Handle:
    """Continue the slot that shares most with a history, filling the rest with `value`."""
    match = pool.find(events)
    assert match is not None
    assert pool.resume(match)
    with pool.write(match.slot, match.length, len(events)) as memory:
        memory[:, :, :, match.length : len(events)] = value
    return pool.publish(match.slot, events, match.length)


def fill(pool: KVPool, events: EventChain, value: float) -> Handle:
    slot = pool.acquire()
    assert slot is not None
    with pool.write(slot, 0, len(events)) as memory:
        memory[:, :, :, : len(events)] = value
    return pool.publish(slot, events)


def test_an_appended_slot_still_serves_whoever_reads_the_shorter_prefix(
    make_pool: Callable[..., KVPool], tmp_path: Path
) -> None:
    pool = make_pool(slots=1)
    short = fill(pool, chain_of(7, 8), 1.0)
    reader = mapped(tmp_path, short)
    long = follow(pool, chain_of(7, 8, 9), 2.0)
    assert (long.slot, long.generation, long.reused) == (short.slot, short.generation, 3)
    assert reader.holds(short)
    assert reader.holds(long)
    assert (reader.view(short) == 1.0).all()
    assert reader.view(long)[:, :, :, 3].eq(2.0).all()
    reader.release(long)
    assert pool.acquire() == 0
    assert not reader.holds(short)


def test_a_slot_is_kept_until_its_latest_lease_ends(make_pool: Callable[..., KVPool], tmp_path: Path) -> None:
    pool = make_pool(slots=1)
    first = fill(pool, chain_of(7), 1.0)
    second = follow(pool, chain_of(7), 1.0)
    reader = mapped(tmp_path, first)
    reader.release(first)
    assert pool.acquire() is None
    reader.release(second)
    assert pool.acquire() == 0


def test_a_slot_whose_latest_events_changed_is_found_by_its_last_block(
    make_pool: Callable[..., KVPool], tmp_path: Path
) -> None:
    pool = make_pool(slots=2)
    old = fill(pool, chain_of(1, 2, 3), 1.0)
    changed = chain_of(1, 2, 4)
    match = pool.find(changed)
    assert match is not None
    assert (match.slot, match.length, match.whole) == (old.slot, 3, False)
    # Its positions are being read, so they may not be overwritten.
    assert not pool.resume(match)
    mapped(tmp_path, old).release(old)
    new = follow(pool, changed, 2.0)
    assert new.slot == old.slot
    assert not mapped(tmp_path, old).holds(old)
    view = mapped(tmp_path, new).view(new)
    assert (view[:, :, :, :3] == 1.0).all()
    assert (view[:, :, :, 3] == 2.0).all()


def test_other_instances_find_a_prefix_until_it_is_overwritten(
    make_pool: Callable[..., KVPool], tmp_path: Path
) -> None:
    owner, other = make_pool(slots=1), make_pool(slots=1, instance="retrieval_1")
    handle = fill(owner, chain_of(1, 2, 3), 1.0)
    (pool,) = PoolDirectory(tmp_path).others(other.epoch)
    assert pool.epoch == owner.epoch
    match = pool.find(chain_of(1, 2, 3, 4))
    assert match is not None
    assert (match.length, match.whole) == (4, True)
    assert pool.find(chain_of(1, 9, 3, 4)) is None
    assert pool.find(chain_of(9)) is None
    pool.release(handle)
    owner.acquire()
    assert not pool.shows(match, chain_of(1, 2, 3, 4))
    assert pool.find(chain_of(1, 2, 3, 4)) is None


def test_an_evicted_user_is_not_found_and_counted(make_pool: Callable[..., KVPool], tmp_path: Path) -> None:
    pool = make_pool(slots=1)
    handle = fill(pool, chain_of(1, 2), 1.0)
    assert (pool.evictions, pool.slots_in_use) == (0, 1)
    mapped(tmp_path, handle).release(handle)
    fill(pool, chain_of(3, 4), 2.0)
    assert pool.evictions == 1
    assert pool.find(chain_of(1, 2)) is None


def test_an_abandoned_slot_is_free_and_found_no_more(make_pool: Callable[..., KVPool]) -> None:
    pool = make_pool(slots=1)
    fill(pool, chain_of(1, 2), 1.0)
    pool.abandon(0)
    assert pool.find(chain_of(1, 2)) is None
    assert pool.acquire() == 0
