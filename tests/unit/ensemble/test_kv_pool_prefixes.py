"""Slots as prefixes: continued, found by others, evicted."""

from collections.abc import Callable

from ensemble.kv.event_chain import EventChain
from ensemble.kv.pool import Handle, KVPool
from tests.support.pool_content import MakeDirectory, ReaderOf, chain_of, content_of, filling


def follow(pool: KVPool, events: EventChain, value: float) -> Handle:
    """Continue the slot that shares most with a history, filling the rest with `value`."""
    match = pool.find(events)
    assert match is not None
    assert pool.resume(match)
    with filling(pool, match.slot, match.length, len(events)) as memory:
        memory[:, :, :, match.length : len(events)] = value
    return pool.publish(match.slot, events, match.length)


def fill(pool: KVPool, events: EventChain, value: float) -> Handle:
    slot = pool.acquire()
    assert slot is not None
    with filling(pool, slot, 0, len(events)) as memory:
        memory[:, :, :, : len(events)] = value
    return pool.publish(slot, events)


def test_an_appended_slot_still_serves_whoever_reads_the_shorter_prefix(
    make_pool: Callable[..., KVPool], reader_of: ReaderOf
) -> None:
    pool = make_pool(slots=1)
    short = fill(pool, chain_of(7, 8), 1.0)
    reader = reader_of(short)
    long = follow(pool, chain_of(7, 8, 9), 2.0)
    assert (long.slot, long.generation, long.reused) == (short.slot, short.generation, 3)
    assert reader.holds(short)
    assert reader.holds(long)
    assert (content_of(reader, short) == 1.0).all()
    assert content_of(reader, long)[:, :, :, 3].eq(2.0).all()
    reader.release(long)
    assert pool.acquire() == 0
    assert not reader.holds(short)


def test_a_slot_is_kept_until_its_latest_lease_ends(
    make_pool: Callable[..., KVPool], reader_of: ReaderOf
) -> None:
    pool = make_pool(slots=1)
    first = fill(pool, chain_of(7), 1.0)
    second = follow(pool, chain_of(7), 1.0)
    reader = reader_of(first)
    reader.release(first)
    assert pool.acquire() is None
    reader.release(second)
    assert pool.acquire() == 0


def test_a_slot_whose_latest_events_changed_is_found_by_its_last_block(
    make_pool: Callable[..., KVPool], reader_of: ReaderOf
) -> None:
    pool = make_pool(slots=2)
    old = fill(pool, chain_of(1, 2, 3), 1.0)
    changed = chain_of(1, 2, 4)
    match = pool.find(changed)
    assert match is not None
    assert (match.slot, match.length, match.whole) == (old.slot, 3, False)
    # Its positions are being read, so they may not be overwritten.
    assert not pool.resume(match)
    reader_of(old).release(old)
    new = follow(pool, changed, 2.0)
    assert new.slot == old.slot
    assert not reader_of(old).holds(old)
    view = content_of(reader_of(new), new)
    assert (view[:, :, :, :3] == 1.0).all()
    assert (view[:, :, :, 3] == 2.0).all()


def test_other_instances_find_a_prefix_until_it_is_overwritten(
    make_pool: Callable[..., KVPool], make_directory: MakeDirectory
) -> None:
    owner, other = make_pool(slots=1), make_pool(slots=1, instance="retrieval_1")
    handle = fill(owner, chain_of(1, 2, 3), 1.0)
    (pool,) = make_directory().others(other.epoch)
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


def test_an_evicted_user_is_not_found_and_counted(
    make_pool: Callable[..., KVPool], reader_of: ReaderOf
) -> None:
    pool = make_pool(slots=1)
    handle = fill(pool, chain_of(1, 2), 1.0)
    assert (pool.evictions, pool.slots_in_use) == (0, 1)
    reader_of(handle).release(handle)
    fill(pool, chain_of(3, 4), 2.0)
    assert pool.evictions == 1
    assert pool.find(chain_of(1, 2)) is None


def test_an_abandoned_slot_is_free_and_found_no_more(make_pool: Callable[..., KVPool]) -> None:
    pool = make_pool(slots=1)
    fill(pool, chain_of(1, 2), 1.0)
    pool.abandon(0)
    assert pool.find(chain_of(1, 2)) is None
    assert pool.acquire() == 0
