"""Events close in time form a feedview; a long run is split."""

import polars as pl

from unipinrec.data.feedviews import group_in_time


def grouped(user_id: list[str], timestamp: list[int]) -> list[int]:
    frame = pl.DataFrame({"user_id": user_id, "timestamp": timestamp})
    return group_in_time(frame)["feedview_id"].to_list()


def test_a_gap_of_60_seconds_joins_and_of_61_parts() -> None:
    assert grouped(["a"] * 4, [0, 60, 121, 121]) == [0, 0, 1, 1]


def test_another_user_begins_another_feedview() -> None:
    assert grouped(["a", "a", "b", "b"], [100, 100, 100, 110]) == [0, 0, 1, 1]


def test_a_run_of_70_is_split_into_32_32_and_6() -> None:
    assert grouped(["a"] * 70 + ["b"], [5] * 71) == [0] * 32 + [1] * 32 + [2] * 6 + [3]
