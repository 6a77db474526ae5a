"""Nothing stays in a slot of whom it was given to before, or of whom the store has deleted."""

import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from ensemble.kv.pool import BLOCK_DIGEST, BLOCK_LENGTH, DIGEST, FREE, LENGTH, STATE, KVPool
from ensemble.nodes.forgetting import LOOK_S, Forgetting
from ensemble.owners import named, owner_once, owners_of
from ensemble.settings import ServingSettings
from ensemble.stores.compaction import compact
from ensemble.stores.history_store import StoreError
from ensemble.stores.lmdb_store import LmdbHistoryStore
from tests.support.pool_content import POSITIONS, ReaderOf, chain, put, slot_content
from tests.support.store_processes import elsewhere
from tests.support.stored_events import events, many
from tests.support.waiting import holds_within


def test_a_wiped_slot_holds_zeros_and_is_the_next_to_be_given_away(
    make_pool: Callable[..., KVPool], reader_of: ReaderOf
) -> None:
    pool = make_pool(slots=4)
    handles = [put(pool, value, owner=owner) for value, owner in ((1, b"ann"), (2, b"bob"), (3, b"ann"))]
    readers = [reader_of(handle) for handle in handles]
    pool.storage.hidden(0)[:] = 7
    assert pool.wipe({b"ann", b"cy"}) == 2
    # At once, though requests were under way.
    assert [reader.holds(handle) for reader, handle in zip(readers, handles, strict=True)] == [
        False,
        True,
        False,
    ]
    for slot in (0, 2):
        assert not slot_content(pool.storage, slot, POSITIONS).any()
        assert not pool.storage.hidden(slot).any()
        told = [LENGTH, DIGEST, DIGEST + 1, BLOCK_LENGTH, BLOCK_DIGEST, BLOCK_DIGEST + 1]
        assert pool.header_SX[slot, STATE] == FREE
        assert not pool.header_SX[slot, told].any()
    assert pool.find(chain(1)) is pool.find(chain(3)) is None
    assert pool.find(chain(2)) is not None
    assert pool.wipe({b"ann"}) == 0
    assert {pool.acquire(), pool.acquire()} == {0, 2}


def test_a_slot_keeps_nothing_of_a_longer_content_before(
    make_pool: Callable[..., KVPool], reader_of: ReaderOf
) -> None:
    pool = make_pool(slots=1)
    handle = put(pool, 1, owner=b"ann")
    reader_of(handle).release(handle)
    put(pool, 2, length=2, owner=b"bob")
    assert not slot_content(pool.storage, 0, POSITIONS)[:, :, :, 2:].any()
    assert pool.wipe({b"ann"}) == 0


def test_an_abandoned_slot_is_still_its_owners(make_pool: Callable[..., KVPool]) -> None:
    pool = make_pool(slots=1)
    pool.abandon(put(pool, 1, owner=b"ann").slot)
    assert pool.wipe({b"ann"}) == 1
    assert not torch.any(slot_content(pool.storage, 0, POSITIONS))


class Dropped:
    """What was asked to be dropped, look by look."""

    def __init__(self) -> None:
        self.looks: list[set[bytes]] = []

    def __call__(self, owners: Collection[bytes]) -> None:
        self.looks.append(set(owners))


@pytest.fixture
def dropped() -> Dropped:
    return Dropped()


@pytest.fixture
def follow(tmp_path: Path, dropped: Dropped) -> Iterator[Callable[..., Forgetting]]:
    made: list[Forgetting] = []

    def make(again_s: float = 60.0) -> Forgetting:
        made.append(Forgetting(ServingSettings(histories=tmp_path / "histories"), dropped, again_s))
        return made[-1]

    yield make
    for forgetting in made:
        forgetting.close()


def delete(path: Path, user: str) -> None:
    elsewhere(path, f"store.delete({user.encode()!r})")


def test_users_whom_another_process_deletes_are_dropped_for_some_time(
    tmp_path: Path, follow: Callable[..., Forgetting], dropped: Dropped
) -> None:
    path = tmp_path / "histories"
    forgetting = follow(again_s=1.0)
    forgetting.look()
    elsewhere(path, "store.append(b'ann', np.ones(3, EVENT))")
    forgetting.look()
    assert dropped.looks == []
    delete(path, "ann")
    forgetting.look()
    delete(path, "nobody")
    forgetting.look()
    ann, nobody = set(owners_of(b"ann")), set(owners_of(b"nobody"))
    assert dropped.looks == [ann, ann | nobody]
    time.sleep(1.1)
    forgetting.look()
    assert len(dropped.looks) == 2


def test_deletions_are_followed_in_a_thread(
    tmp_path: Path, follow: Callable[..., Forgetting], dropped: Dropped
) -> None:
    elsewhere(tmp_path / "histories", "store.append(b'ann', np.ones(3, EVENT))")
    follow().watch()
    delete(tmp_path / "histories", "ann")
    assert holds_within(LOOK_S + 5.0, lambda: bool(dropped.looks))


def test_a_notice_is_left_by_every_deletion_and_dropped_after_a_day_and_by_compaction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "histories"
    with LmdbHistoryStore(path, writable=True) as store:
        store.append(b"ann", events(many(3)))
        for user in (b"ann", b"bob"):
            store.delete(user)
        assert store.deleted_after(0) == [(1, owners_of(b"ann")), (2, owners_of(b"bob"))]
        assert store.deleted_after(1) == [(2, owners_of(b"bob"))]
        now = time.time()
        monkeypatch.setattr("time.time", lambda: now + 86_402)
        store.delete(b"cy")
        assert store.deleted_after(0) == [(3, owners_of(b"cy"))]
    held = (path / "data.mdb").read_bytes()
    assert owners_of(b"cy")[0] in held
    compact(path)
    assert owners_of(b"cy")[0] not in (path / "data.mdb").read_bytes()
    with LmdbHistoryStore(path) as store:
        assert store.deleted_after(0) == []


def test_what_stands_for_a_user_does_not_hold_the_id() -> None:
    owners = [owner for user in (b"ann", b"ann\0", b"x" * 256) for owner in owners_of(user)]
    assert len(set(owners)) == 6
    assert {len(owner) for owner in owners} == {16}


def test_an_owner_that_is_never_the_same_again_is_found_by_its_user() -> None:
    once, again = owner_once(b"ann"), owner_once(b"ann")
    assert once != again
    assert named(once) == named(again)
    assert named(once) in {named(owner) for owner in owners_of(b"ann")}
    assert named(once) not in {named(owner) for owner in owners_of(b"bob")}


def test_a_store_that_cannot_be_read_is_told_of_once_and_followed_later(
    tmp_path: Path,
    follow: Callable[..., Forgetting],
    dropped: Dropped,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = tmp_path / "histories"
    path.write_text("no store")
    forgetting = follow()
    with pytest.raises(StoreError):
        forgetting.look()
    forgetting.watch()
    time.sleep(4 * LOOK_S)
    assert [record.getMessage() for record in caplog.records] == [
        f"deleted users are not forgotten: {path} is no history store; "
        "`unipinrec store` makes one in a new folder"
    ]
    path.unlink()
    delete(path, "ann")
    assert holds_within(LOOK_S + 5.0, lambda: bool(dropped.looks))
    assert np.all([look == set(owners_of(b"ann")) for look in dropped.looks])
