"""Recorded answers and feedback become an exploration log, and what does not belong together is told."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests.unit.data.test_exploration_log import INFO
from unipinrec.data.events import EventFormatError
from unipinrec.data.explored_answers import join

UNTOLD = {"explored": True, "arm": 1}
EXPLORED = {"arm": 1, "propensity": 0.2, "explored": True}
ANSWERS: list[dict[str, Any]] = [
    {
        "request_id": "late",
        "user_id": "a",
        "timestamp": 200,
        "surface": 1,
        "item_ids": [5, 6, 7],
        "utility_weights": [1.0, 1.0, 8.0],
        "utility_source": "explored",
        "decision": EXPLORED,
    },
    {
        "request_id": "batch",
        "user_id": 7,
        "timestamp": 100,
        "item_ids": [5, 6],
        "utility_weights": [1.0, 2.0, 3.0],
        "utility_source": "explored",
        "decision": {"arm": 4, "propensity": 0.2, "explored": True},
    },
    {
        "request_id": "batch",
        "user_id": "8",
        "timestamp": 100,
        "item_ids": [5, 6],
        "utility_weights": [1.0, 4.0, 2.0],
        "utility_source": "chosen",
        "decision": {"policy": "0123456789ab", "arm": 2, "alpha": 0.3, "cohort": "rest", "revision": 1},
    },
    {
        "request_id": "static",
        "user_id": "a",
        "timestamp": 50,
        "item_ids": [5],
        "utility_weights": [1.0, 2.0, 3.0],
        "utility_source": "default",
        "decision": {},
    },
]
CLICK, SAVE, SHARE = 1, 2, 4
FEEDBACK = [
    ("late", "a", 5, CLICK | SAVE),
    ("late", "a", 6, CLICK | SAVE),
    ("late", "a", 6, CLICK),
    ("late", "a", 99, SHARE),
    ("batch", "7", 6, SHARE),
    ("batch", "8", 6, SAVE),
    ("static", "a", 5, SAVE),
    ("static", "b", 5, SAVE),
    ("lost", "a", 5, SAVE),
]


def feedback_file(folder: Path, rows: list[tuple[str, str, int, int]] = FEEDBACK) -> Path:
    columns = ["request_id", "user_id", "item_id", "actions"]
    pl.DataFrame(rows, columns, orient="row").write_csv(folder / "feedback.csv")
    return folder / "feedback.csv"


def answers_file(folder: Path, answers: list[dict[str, Any]]) -> Path:
    (folder / "answers.jsonl").write_text("".join(json.dumps(answer) + "\n" for answer in answers))
    return folder / "answers.jsonl"


def test_explored_answers_are_the_log_and_served_items_alone_count(tmp_path: Path) -> None:
    joined = join(answers_file(tmp_path, ANSWERS), feedback_file(tmp_path), INFO)
    log = joined.log
    assert log.request_id_R.tolist() == ["batch/7", "late"]
    assert log.user_id_R.tolist() == ["7", "a"]
    assert log.timestamp_R.tolist() == [100, 200]
    assert log.surface_R.tolist() == [0, 1]
    assert log.arm_R.tolist() == [4, 1]
    assert log.propensity_R.tolist() == [0.2, 0.2]
    assert log.explored_R.all()
    assert log.reward_RM.tolist() == [[0, 1], [1, 0]]
    assert (joined.unexplored, joined.unanswered, joined.unserved) == (2, 2, 1)


def test_feedback_may_be_json_lines_and_may_be_missing_for_a_request(tmp_path: Path) -> None:
    (tmp_path / "feedback.jsonl").write_text(
        '{"request_id": "late", "user_id": "a", "item_id": 7, "actions": 4}\n'
    )
    log = join(answers_file(tmp_path, ANSWERS), tmp_path / "feedback.jsonl", INFO).log
    assert log.reward_RM.tolist() == [[0, 0], [0, 1]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"decision": EXPLORED | {"propensity": 0.0}},
            "line 1: decision.propensity is 0.0; allowed: greater than 0",
        ),
        ({"decision": UNTOLD}, f"line 1: decision is {UNTOLD}; arm and propensity of"),
        ({"decision": EXPLORED | {"arm": 5}}, "line 1: arm is 5; allowed: 0 to 4"),
        (
            {"utility_weights": [1.0, 4.0, 2.0]},
            "line 1: utility_weights is [1.0, 4.0, 2.0]; allowed: [1.0, 1.0, 8.0], those of arm 1",
        ),
        ({"timestamp": "noon"}, "line 1: timestamp is 'noon'; allowed: a valid integer"),
        (
            {"request_id": "batch", "user_id": "7"},
            "line 2: request_id is 'batch' again for user '7'; allowed: once",
        ),
    ],
)
def test_an_answer_that_cannot_be_is_refused_by_its_line(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    answers = answers_file(tmp_path, [ANSWERS[0] | change, *ANSWERS[1:]])
    with pytest.raises(EventFormatError) as caught:
        join(answers, feedback_file(tmp_path), INFO)
    assert str(caught.value).startswith(f"file {answers}, {message}")
    assert "\n" not in str(caught.value)


def test_answers_of_which_none_explored_are_refused(tmp_path: Path) -> None:
    answers = answers_file(tmp_path, ANSWERS[2:])
    with pytest.raises(EventFormatError, match="has 2 answers, none of which explored; allowed: 1 or more"):
        join(answers, feedback_file(tmp_path), INFO)


def test_feedback_with_an_unknown_action_is_refused(tmp_path: Path) -> None:
    feedback = feedback_file(tmp_path, [("late", "a", 5, 8)])
    with pytest.raises(EventFormatError, match="actions is 8 in row 1; allowed: 0 to 7"):
        join(answers_file(tmp_path, ANSWERS), feedback, INFO)
