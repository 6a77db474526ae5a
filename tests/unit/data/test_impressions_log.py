"""What was shown in vain, before each feedview: against a plain walk over the rows."""

from pathlib import Path

import pytest

from tests.support.slates import Shown, load, random_rows
from unipinrec.data.history import History
from unipinrec.data.impressions_log import ImpressionLog

ROWS = [
    Shown("a", 1, 0, 0, 10, 1),
    Shown("a", 2, 1, 0, 12, 1),
    Shown("a", 3, 0, 0, 14, 1),
    Shown("a", 4, 2, 1, 20, 2),
    Shown("a", 5, 0, 1, 20, None),
    Shown("a", 6, 0, 1, 21, 3),
    Shown("b", 7, 1, 0, 5, 1),
]


def told(history: History) -> list[tuple[int, ...]]:
    columns = (history.item_row_N, history.actions_N, history.surface_N, history.timestamp_N)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def test_a_slate_is_shown_at_the_time_of_its_first_row(tmp_path: Path) -> None:
    log = ImpressionLog.of(load(tmp_path, ROWS))
    assert told(log.history(0)) == [(1, 0, 0, 10), (3, 0, 0, 10), (6, 0, 1, 21)]
    assert [len(log.before(feedview)) for feedview in range(4)] == [0, 2, 2, 0]
    assert told(log.history(1)) == []


def test_histories_that_hold_impressions_give_their_own_times(tmp_path: Path) -> None:
    log = ImpressionLog.of(load(tmp_path, ROWS, history_impressions=True))
    assert told(log.history(0)) == [(1, 0, 0, 10), (3, 0, 0, 14), (5, 0, 1, 20), (6, 0, 1, 21)]
    assert [told(log.before(feedview)) for feedview in range(3)] == [
        [],
        [(1, 0, 0, 10), (3, 0, 0, 14)],
        [(1, 0, 0, 10), (3, 0, 0, 14), (5, 0, 1, 20)],
    ]


@pytest.mark.parametrize("history_impressions", [False, True])
def test_it_is_what_a_walk_over_the_rows_finds(tmp_path: Path, history_impressions: bool) -> None:
    rows = random_rows(3)
    log = ImpressionLog.of(load(tmp_path, rows, history_impressions=history_impressions))
    firsts = [row for index, row in enumerate(rows) if row[::5] not in {r[::5] for r in rows[:index]}]
    assert len(log.start_F) == len(firsts) > 40
    for feedview, first in enumerate(firsts):
        earlier = rows[: rows.index(first)]
        expected = [row.item_id for row in earlier if row.user_id == first.user_id and row.actions == 0]
        assert log.before(feedview).item_row_N.tolist() == expected


def test_a_log_without_impressions_has_none(tmp_path: Path) -> None:
    acted = [row for row in ROWS if row.actions]
    log = ImpressionLog.of(load(tmp_path, acted, sampled_impressions=True))
    assert len(log.rows) == 0
    assert log.start_F.tolist() == [0, 0, 0]
