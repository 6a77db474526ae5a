"""Decisions in shared memory: what is there is found, and nothing else ever is."""

import threading
from pathlib import Path

import numpy as np
import pytest

from ensemble.policy.decision_table import ROW, ROWS, Decision, DecisionTable

DECISION = Decision("decided", arm=17, alpha=0.21, cohort=2, revision=5, took_us=900)


def test_a_decision_is_found_by_its_number_in_another_process_s_view(tmp_path: Path) -> None:
    table = DecisionTable(tmp_path, "bundle")
    assert table.find(123) is None
    table.put(123, DECISION)
    assert DecisionTable(tmp_path, "bundle").find(123) == DECISION
    for other in (0, 122, 123 + ROWS, 123 - ROWS, -123):
        assert table.find(other) is None


@pytest.mark.parametrize("outcome", ["failed", "invalid"])
def test_it_tells_what_went_wrong(tmp_path: Path, outcome: str) -> None:
    table = DecisionTable(tmp_path, "bundle")
    table.put(2**62 + 1, Decision(outcome))  # type: ignore[arg-type]
    found = table.find(2**62 + 1)
    assert found is not None
    assert found.outcome == outcome


def test_a_later_decision_takes_the_place_of_an_older_one(tmp_path: Path) -> None:
    table = DecisionTable(tmp_path, "bundle")
    table.put(7, DECISION)
    table.put(7 + ROWS, Decision("decided", arm=1))
    assert table.find(7) is None
    assert table.find(7 + ROWS) == Decision("decided", arm=1)


def test_a_decision_about_another_bundle_s_arms_is_none(tmp_path: Path) -> None:
    DecisionTable(tmp_path, "other").put(5, DECISION)
    assert DecisionTable(tmp_path, "bundle").find(5) is None


def test_no_row_is_believed_that_was_changed_in_any_byte(tmp_path: Path) -> None:
    table = DecisionTable(tmp_path, "bundle")
    table.put(9, DECISION)
    path = tmp_path / "policy" / "decisions"
    whole = path.read_bytes()
    for byte in range(ROW.itemsize):
        with path.open("r+b") as file:
            file.seek(9 * ROW.itemsize + byte)
            file.write(bytes([whole[9 * ROW.itemsize + byte] ^ 1]))
        assert table.find(9) is None
        with path.open("r+b") as file:
            file.write(whole)
    assert table.find(9) == DECISION


def test_half_written_rows_are_never_read(tmp_path: Path) -> None:
    written, read = DecisionTable(tmp_path, "bundle"), DecisionTable(tmp_path, "bundle")
    stopped = threading.Event()

    def write() -> None:
        draw = np.random.default_rng(0)
        while not stopped.is_set():
            arm = int(draw.integers(50))
            written.put(3 + ROWS * arm, Decision("decided", arm=arm, alpha=arm / 50, revision=arm))

    writer = threading.Thread(target=write)
    writer.start()
    found = [read.find(3 + ROWS * arm) for _ in range(200) for arm in range(50)]
    stopped.set()
    writer.join()
    for decision in filter(None, found):
        assert (decision.alpha, decision.revision) == (decision.arm / 50, decision.arm)
    assert any(found)
