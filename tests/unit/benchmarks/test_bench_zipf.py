"""How many users Zipf traffic has where memory is short, and what a run plans."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import zipf
from benchmarks.plan import FULL, QUICK, Kind
from benchmarks.zipf import TooLittleMemoryError, fitting_size
from ensemble.settings import ServingSettings
from unipinrec.models.unified.config import preset

MODEL = preset("bench-cpu", num_items=100, num_actions=4)
SLOT_BYTES = 6 * 2 * 256 * 513 * 4
"""Keys and values of 6 layers, width 256, 512 events and BOS, in float32."""


def size(monkeypatch: pytest.MonkeyPatch, free_bytes: int, users: int) -> tuple[int, int, list[str]]:
    told: list[str] = []
    monkeypatch.setattr(zipf, "_free_bytes", lambda _: free_bytes)
    found = fitting_size(users, MODEL, ServingSettings(), told.append)
    return found.users, found.slots, told


def test_a_tenth_of_the_users_has_a_slot_where_memory_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    assert size(monkeypatch, 24 << 30, 20_000) == (20_000, 2_000, [])


def test_short_memory_means_fewer_users_and_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    users, slots, told = size(monkeypatch, 4 << 30, 20_000)
    # At most .7 of what is free, and the slots come with a little beside keys and values.
    assert 0.98 * 0.7 * (4 << 30) / SLOT_BYTES - 1 <= slots <= 0.7 * (4 << 30) / SLOT_BYTES
    assert users == 10 * slots
    assert len(told) == 1
    assert "2000 slots need 12.6 GB" in told[0]


def test_no_memory_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TooLittleMemoryError, match="16 slots need"):
        size(monkeypatch, 50 << 20, 20_000)


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
    assert FULL.settings(Path("bundle")).pool_slots == 128
    assert FULL.settings(Path("bundle")).threads == 2
    monkeypatch.setenv("UNIPINREC_POOL_SLOTS", "7")
    assert QUICK.settings(Path("bundle")).pool_slots == 7
