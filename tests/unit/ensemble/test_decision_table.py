"""Decisions in shared memory: what is there is found, and nothing else ever is."""

from pathlib import Path

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


@pytest.mark.parametrize("told", [Decision("failed"), Decision("invalid"), Decision("withheld")])
def test_it_tells_what_went_wrong(tmp_path: Path, told: Decision) -> None:
    table = DecisionTable(tmp_path, "bundle")
    table.put(2**62 + 1, told)
    assert table.find(2**62 + 1) == told


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


def test_a_row_that_is_half_of_another_decision_s_is_not_read(tmp_path: Path) -> None:
    table = DecisionTable(tmp_path, "bundle")
    path = tmp_path / "policy" / "decisions"
    table.put(3, DECISION)
    earlier = path.read_bytes()[3 * ROW.itemsize : 4 * ROW.itemsize]
    table.put(3 + ROWS, Decision("decided", arm=1))
    later = path.read_bytes()[3 * ROW.itemsize : 4 * ROW.itemsize]
    for cut in range(1, ROW.itemsize):
        with path.open("r+b") as file:
            file.seek(3 * ROW.itemsize)
            file.write(later[:cut] + earlier[cut:])
        found = [table.find(number) for number in (3, 3 + ROWS)]
        assert found in ([None, None], [DECISION, None], [None, Decision("decided", arm=1)])
