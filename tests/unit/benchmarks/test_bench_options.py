"""The benchmark of options compares what it says."""

import numpy as np
import pytest

from benchmarks.options import measure_storage
from tests.conftest import Exported


def test_coarser_keys_and_values_take_less_memory_and_change_scores_more(
    exported: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNIPINREC_HISTORIES", str(exported.histories))
    storage, users = measure_storage(exported.bundle, 12, lambda _: None)
    assert users == 12
    assert [one.precision for one in storage] == ["float32", "bfloat16", "int8"]
    exact, half, quarter = storage
    assert (exact.largest_difference, exact.top_10_overlap) == (0.0, 1.0)
    assert 0 < half.mean_difference < 0.02
    assert 0 < quarter.mean_difference < 0.02
    assert np.isclose(exact.slot_bytes / half.slot_bytes, 2, atol=0.02)
    assert 3.4 < exact.slot_bytes / quarter.slot_bytes < 4
