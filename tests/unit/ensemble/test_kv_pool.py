"""The KV pool: a handle that holds shows what was written for it, whatever happened to the slots since."""

import json
import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ensemble.kv.pool import (
    DEADLINE_NS,
    DIGEST,
    GENERATION,
    LEASE,
    LENGTH,
    READY,
    RELEASED,
    STATE,
    WRITING,
    Handle,
    KVPool,
    PoolDirectory,
    no_slot,
)
from ensemble.kv.shared_memory import bytes_of
from ensemble.kv.slot_storage import PoolMemory, SlotLayout
from tests.support.pool_content import (
    MINUTE_MS,
    POSITIONS,
    MakeDirectory,
    ReaderOf,
    chain,
    content,
    content_of,
    layout,
    put,
)
from unipinrec.models.unified.config import preset


def test_a_lease_ends_by_itself(make_pool: Callable[..., KVPool], reader_of: ReaderOf) -> None:
    pool = make_pool(slots=1, lease_ms=200)
    handle = put(pool, 1)
    assert reader_of(handle).holds(handle)
    assert pool.acquire() is None
    time.sleep(0.25)
    assert not reader_of(handle).holds(handle)
    assert pool.acquire() == handle.slot


def test_an_unpublished_slot_is_leased_too(make_pool: Callable[..., KVPool]) -> None:
    pool = make_pool(slots=1, lease_ms=100)
    assert pool.acquire() == 0
    assert pool.acquire() is None
    time.sleep(0.15)
    assert pool.acquire() == 0


def test_the_least_recently_used_released_slot_is_reused_first(
    make_pool: Callable[..., KVPool], reader_of: ReaderOf
) -> None:
    pool = make_pool(slots=3)
    first, second, third = (put(pool, value) for value in range(3))
    reader = reader_of(first)
    for handle in (third, first):
        reader.release(handle)
    assert pool.acquire() == first.slot
    assert pool.acquire() == third.slot
    assert pool.acquire() is None
    reader.release(second)
    assert pool.acquire() == second.slot


def test_a_free_slot_goes_before_a_released_one(
    make_pool: Callable[..., KVPool], reader_of: ReaderOf
) -> None:
    pool = make_pool(slots=3)
    handle = put(pool, 1)
    reader_of(handle).release(handle)
    assert [pool.acquire(), pool.acquire(), pool.acquire()] == [1, 2, 0]


def test_a_released_slot_stays_readable_until_it_is_reused(
    make_pool: Callable[..., KVPool], reader_of: ReaderOf
) -> None:
    pool = make_pool(slots=1)
    handle = put(pool, 4, length=2)
    reader = reader_of(handle)
    reader.release(handle)
    assert reader.holds(handle)
    assert torch.equal(content_of(reader, handle), content(4, 2))
    pool.acquire()
    assert not reader.holds(handle)


def test_releasing_a_stale_handle_does_not_end_the_newer_lease(
    make_pool: Callable[..., KVPool], reader_of: ReaderOf
) -> None:
    pool = make_pool(slots=1)
    old = put(pool, 1)
    reader = reader_of(old)
    reader.release(old)
    new = put(pool, 2)
    reader.release(old)
    assert pool.acquire() is None
    assert reader.holds(new)


def test_content_being_written_is_not_held(make_pool: Callable[..., KVPool], reader_of: ReaderOf) -> None:
    pool = make_pool(slots=1)
    old = put(pool, 1)
    reader = reader_of(old)
    reader.release(old)
    slot = pool.acquire()
    assert slot == old.slot
    next_generation = replace(old, generation=old.generation + 1)
    assert not reader.holds(next_generation)
    published = pool.publish(slot, chain(2))
    assert replace(published, lease=old.lease) == next_generation
    assert reader.holds(published)


def test_a_device_is_waited_for_before_readers_are_shown_what_it_wrote(
    make_pool: Callable[..., KVPool], monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = make_pool(slots=1)
    shown: list[list[int]] = []
    monkeypatch.setattr(
        pool.storage, "synchronize", lambda: shown.append(pool.header_SX[0, [STATE, LENGTH, DIGEST]].tolist())
    )
    put(pool, 1, length=3)
    match = pool.find(chain(1, 4))
    assert match is not None
    assert pool.resume(match)
    pool.publish(0, chain(1, 4), reused=3)
    assert shown == [[WRITING, 0, 0], [READY, 3, 0]]


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
    make_pool: Callable[..., KVPool], reader_of: ReaderOf, tamper: Callable[[Handle], Handle]
) -> None:
    pool = make_pool(slots=2)
    older = [put(pool, 1, length=3), put(pool, 2, length=3)]
    reader = reader_of(older[0])
    for handle in older:
        reader.release(handle)
    put(pool, 3, length=3)
    handle = put(pool, 4, length=3)
    assert handle.slot == 1
    assert reader.holds(handle)
    assert not reader.holds(tamper(handle))


@pytest.mark.parametrize("epoch", [0, -1, 7])
def test_no_pool_is_found_for_a_foreign_epoch(
    make_pool: Callable[..., KVPool], make_directory: MakeDirectory, epoch: int
) -> None:
    handle = put(make_pool(), 1)
    assert make_directory().find(replace(handle, epoch=epoch)) is None


def test_the_handle_of_a_full_pool_is_found_nowhere(
    make_pool: Callable[..., KVPool], make_directory: MakeDirectory
) -> None:
    make_pool()
    handle = no_slot(3)
    assert handle == Handle(epoch=0, slot=-1, generation=0, length=3, lease=0, reused=0)
    assert make_directory().find(handle) is None


def test_a_handle_travels_as_six_integers() -> None:
    handle = Handle(epoch=2**62, slot=3, generation=2**40, length=129, lease=2**41, reused=17)
    array = handle.to_array()
    assert array.tolist() == [2**62, 3, 2**40, 129, 2**41, 17]
    assert array.dtype == np.int64
    assert Handle.from_array(array) == handle


def test_meeting_a_new_epoch_ends_the_mapping_of_the_old_one(
    make_pool: Callable[..., KVPool], make_directory: MakeDirectory
) -> None:
    directory = make_directory()
    old = put(make_pool(), 1)
    reader = directory.find(old)
    assert reader is not None
    new = put(make_pool(), 2)
    assert new.epoch != old.epoch
    found = directory.find(new)
    assert found is not None
    assert torch.equal(content_of(found, new), content(2, POSITIONS))
    assert directory.find(old) is None
    assert reader.holds(old)
    assert torch.equal(content_of(reader, old), content(1, POSITIONS))
    assert not found.holds(old)


def test_a_pool_that_is_mapped_while_another_thread_looks_for_gone_ones_stays_mapped(
    make_pool: Callable[..., KVPool], make_directory: MakeDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = make_directory()
    announced = directory._announced

    def announced_before_a_pool_was_mapped() -> set[int]:
        before = announced()
        monkeypatch.undo()
        assert directory.find(put(make_pool(), 1)) is not None
        return before

    monkeypatch.setattr(directory, "_announced", announced_before_a_pool_was_mapped)
    directory.forget_gone()
    assert len(directory._mapped) == 1


def test_a_restart_leaves_other_instances_alone(
    make_pool: Callable[..., KVPool], make_directory: MakeDirectory
) -> None:
    directory = make_directory()
    other = put(make_pool(instance="retrieval_1"), 1)
    make_pool(instance="retrieval_0")
    own = put(make_pool(instance="retrieval_0"), 2)
    for handle, value in ((own, 2), (other, 1)):
        found = directory.find(handle)
        assert found is not None
        assert torch.equal(content_of(found, handle), content(value, POSITIONS))


def test_closing_removes_the_files_and_leaves_mappings_valid(
    make_pool: Callable[..., KVPool], reader_of: ReaderOf, make_directory: MakeDirectory, tmp_path: Path
) -> None:
    pool = make_pool()
    handle = put(pool, 1)
    reader = reader_of(handle)
    pool.close()
    assert list(tmp_path.glob("kv-*")) == []
    assert torch.equal(content_of(reader, handle), content(1, POSITIONS))
    assert make_directory().find(handle) is None
    pool.close()


def test_a_pool_that_lost_its_header_is_gone(
    make_pool: Callable[..., KVPool], make_directory: MakeDirectory, tmp_path: Path
) -> None:
    handle = put(make_pool(), 1)
    next(tmp_path.glob("*.header")).unlink()
    assert make_directory().find(handle) is None


def test_memory_that_does_not_fit_is_refused_before_it_is_touched(tmp_path: Path) -> None:
    shape = (2, 2, 1, 2**40, 3)
    needed_mib = 4 * (12 * 2**40 + 4) * 4 // 2**20
    message = rf"^the KV pool needs {needed_mib} MiB in {tmp_path}; \d+ MiB are free\. Use fewer pool slots, "
    with pytest.raises(MemoryError, match=message):
        KVPool(tmp_path, "retrieval_0", layout(4, shape), MINUTE_MS)
    assert not list(tmp_path.glob("*.slots"))
    assert not list(tmp_path.glob("*.json"))


def test_a_pool_on_another_device_is_refused(
    make_pool: Callable[..., KVPool], make_directory: MakeDirectory, tmp_path: Path
) -> None:
    handle = put(make_pool(), 1)
    descriptor = next(tmp_path.glob("*.json"))
    descriptor.write_text(json.dumps({**json.loads(descriptor.read_text()), "device": "tpu"}))
    with pytest.raises(ValueError, match=r"^the KV pool's device is 'tpu'; allowed: 'cpu'$"):
        make_directory().find(handle)


def test_a_slot_has_room_for_bos_and_the_longest_history() -> None:
    config = preset("demo", num_items=10, num_actions=2)
    found = SlotLayout.of_model(config, slots=3, precision="float32")
    assert found.shape == (4, 2, 4, 1 + 128, 128 // 4)
    assert bytes_of(found) == 4 * 3 * (128 + 4 * 2 * 129 * 128)


def test_rounded_slots_take_less_memory() -> None:
    config = preset("bench-cpu", num_items=10, num_actions=2)
    sizes = {
        precision: bytes_of(SlotLayout.of_model(config, slots=2, precision=precision))
        for precision in ("float32", "bfloat16", "int8")
    }
    assert sizes["float32"] == 2 * (256 * 4 + 6 * 2 * 513 * 256 * 4)
    assert sizes["bfloat16"] == 2 * (256 * 4 + 6 * 2 * 513 * 256 * 2)
    assert sizes["int8"] == 2 * (256 * 4 + 6 * 2 * 513 * (256 + 4 * 4))


def test_the_generation_changes_before_the_slot_may_be_written(
    make_pool: Callable[..., KVPool], reader_of: ReaderOf
) -> None:
    pool = make_pool(slots=1)
    handle = put(pool, 1, length=3)
    reader_of(handle).release(handle)
    pool.acquire()
    header = pool.header_SX[0]
    assert header[[GENERATION, STATE, LENGTH, RELEASED]].tolist() == [2, WRITING, 3, handle.lease]
    assert header[LEASE] > handle.lease
    assert header[DEADLINE_NS] > time.monotonic_ns()


def read_and_release(
    folder: Path, memory: PoolMemory, handles: list[Handle]
) -> list[tuple[bool, list[float]]]:
    """What another process sees, and its release of every handle that holds."""
    directory = PoolDirectory(folder, memory)
    seen = []
    for handle in handles:
        pool = directory.find(handle)
        holds = pool is not None and pool.holds(handle)
        shown = content_of(pool, handle).flatten().tolist() if pool is not None and holds else []
        seen.append((holds, shown))
        if pool is not None and holds:
            pool.release(handle)
    return seen


def test_another_process_reads_in_place_and_its_release_frees_the_slots(
    make_pool: Callable[..., KVPool], reader_of: ReaderOf, memory: PoolMemory, tmp_path: Path
) -> None:
    pool = make_pool(slots=2)
    stale = put(pool, 1)
    reader_of(stale).release(stale)
    handles = [put(pool, 2, length=1), put(pool, 3, length=4)]
    assert pool.acquire() is None
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as child:
        first = child.submit(read_and_release, tmp_path, memory, [stale, *handles]).result()
        later = put(pool, 4, length=2)
        second = child.submit(read_and_release, tmp_path, memory, [*handles, later]).result()
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


def test_slots_that_vanish_before_they_are_mapped_are_not_found_as_zeros(
    make_pool: Callable[..., KVPool], make_directory: MakeDirectory, tmp_path: Path
) -> None:
    handle = put(make_pool(), 1, length=3)
    (slots,) = (path for path in tmp_path.iterdir() if path.suffix not in (".json", ".header"))
    slots.unlink()
    assert make_directory().find(handle) is None
    assert not slots.exists()


def test_an_instance_name_with_dots_and_dashes_works_and_removes_only_its_own(tmp_path: Path) -> None:
    other = KVPool(tmp_path, "retrieval-v1.0-b", layout(1), lease_ms=60_000)
    first = KVPool(tmp_path, "retrieval-v1.0", layout(1), lease_ms=60_000)
    second = KVPool(tmp_path, "retrieval-v1.0", layout(1), lease_ms=60_000)
    epochs = {int(path.stem.rpartition("-")[2]) for path in tmp_path.glob("*.json")}
    assert epochs == {other.epoch, second.epoch}
    assert first.epoch not in epochs
    second.close()
    assert {path.stem.rpartition("-")[2] for path in tmp_path.iterdir()} == {str(other.epoch)}
