"""What a run plans: its stacks, its pool, its traffic, and Zipf's slots where memory is short."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import psutil
import pytest

from benchmarks.random_bundle import RandomBundle, make_random_bundle
from benchmarks.unified.plan import FULL, QUICK, Kind
from benchmarks.unified.traffic import traffic_plan
from benchmarks.unified.zipf import fitting_slots, pools
from ensemble.settings import ServingSettings
from loadtest.plan import LoadPlan
from loadtest.traffic import Visit
from unipinrec.models.unified.config import preset

MODEL = preset("bench-cpu", num_items=100, num_actions=4)
SLOT_BYTES = 6 * 2 * 256 * 513 * 4
"""Keys and values of 6 layers, width 256, 512 events and BOS, in float32."""


def slots(monkeypatch: pytest.MonkeyPatch, free_bytes: int, users: int) -> int:
    memory = psutil.virtual_memory()._replace(available=free_bytes)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    disk = psutil.disk_usage("/")._replace(free=1 << 50)
    monkeypatch.setattr(psutil, "disk_usage", lambda _: disk)
    return fitting_slots(users, MODEL, ServingSettings())


def test_a_tenth_of_the_users_has_a_slot_where_memory_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    assert slots(monkeypatch, 24 << 30, 20_000) == 2_000


def test_short_memory_means_fewer_slots_and_none_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    found = slots(monkeypatch, 4 << 30, 20_000)
    # At most .7 of what is free, and the slots come with a little beside keys and values.
    assert 0.98 * 0.7 * (4 << 30) / SLOT_BYTES - 1 <= found <= 0.7 * (4 << 30) / SLOT_BYTES
    with pytest.raises(MemoryError, match="16 slots need"):
        slots(monkeypatch, 50 << 20, 20_000)


def test_each_retrieval_instance_has_a_pool() -> None:
    assert pools() == 2


def test_a_kind_of_traffic_alone_runs_its_stacks_alone() -> None:
    assert replace(FULL, only=Kind.WARM).stacks == ("unified_warm", "separate_warm")
    assert not replace(FULL, only=Kind.WARM).has_zipf
    assert replace(FULL, only=Kind.ZIPF).stacks == ()
    assert replace(FULL, only=Kind.ZIPF).has_zipf
    assert len(FULL.stacks) == 4


def test_the_pool_has_room_for_all_returning_users_unless_the_environment_says_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("UNIPINREC_POOL_SLOTS", raising=False)
    monkeypatch.setenv("UNIPINREC_THREADS", "2")
    assert FULL.load.settings(Path("bundle")).pool_slots == 128
    assert FULL.load.settings(Path("bundle")).threads == 2
    monkeypatch.setenv("UNIPINREC_POOL_SLOTS", "7")
    assert QUICK.load.settings(Path("bundle")).pool_slots == 7


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> RandomBundle:
    return make_random_bundle(600, tmp_path_factory.mktemp("bundles"), lambda _: None, sizes="tiny")


def visits(plan: LoadPlan, count: int) -> Iterator[tuple[Visit, int]]:
    traffic = plan.open_traffic(0)
    for visit in islice(iter(traffic.next, None), count):
        traffic.done(visit)
        assert visit.history is not None
        yield visit, len(visit.history)


def test_cold_users_are_new_with_full_windows(made: RandomBundle, tmp_path: Path) -> None:
    plans = [traffic_plan(made, Kind.COLD, folder=tmp_path, seed=seed) for seed in (3, 4)]
    seen = [pair for plan in plans for pair in visits(plan, 20)]
    assert {length for _, length in seen} == {made.manifest.model.max_history}
    assert len({visit.user_id for visit, _ in seen}) == 40
    sent = {tuple(visit.history.timestamp_N) for visit, _ in seen if visit.history}
    assert len(sent) == 40
    for visit, _ in seen[:5]:
        request = made.offline_request(visit.history)
        assert request.history.item_row_N.min() >= 0
        assert made.item_ids[request.history.item_row_N].tolist() == visit.history.item_id_N.tolist()


def test_warm_users_return_in_windows_that_are_nearly_full(made: RandomBundle, tmp_path: Path) -> None:
    model = made.manifest.model
    plan = traffic_plan(made, Kind.WARM, folder=tmp_path, users=6, seed=3)
    first = list(plan.open_traffic(0).first_pass(6))
    least = model.max_history - model.window_block + 1
    assert len({visit.user_id for visit in first}) == 6
    assert all(least <= len(visit.history) <= model.max_history for visit in first if visit.history)
    seen = list(visits(plan, 300))
    assert {visit.user_id for visit, _ in seen} == {visit.user_id for visit in first}
    assert max(length for _, length in seen) <= model.max_history + model.window_block
    assert min(length for _, length in seen) >= least
    other = traffic_plan(made, Kind.WARM, folder=tmp_path, users=6, seed=4)
    assert not {visit.user_id for visit, _ in visits(other, 30)} & {visit.user_id for visit in first}


def test_zipf_users_are_many_and_the_first_are_popular(made: RandomBundle, tmp_path: Path) -> None:
    plan = traffic_plan(made, Kind.ZIPF, folder=tmp_path, users=1_000, seed=3)
    ranks = [visit.rank for visit, _ in visits(plan, 2_000)]
    expected = 1 / sum(1 / rank for rank in range(1, 1_001))
    assert ranks.count(0) / len(ranks) == pytest.approx(expected, rel=0.2)
    assert len(set(ranks)) > 200
