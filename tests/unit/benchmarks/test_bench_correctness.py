"""Sampled answers: what is right passes, and each way of being wrong is told."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.unified.correctness import compare, evenly
from loadtest.answers import Answer, RecordedAnswer
from loadtest.histories import UserHistory

SEEN = np.array([40, 50])
PROBABILITY_KA = np.array([[0.5, 0.5], [0.9, 0.2], [0.1, 0.3]], np.float32)
EXPECTED = Answer(
    item_id_K=np.array([10, 30, 20]),
    score_K=np.array([1.5, 1.3, 0.7], np.float32),
    probability_KA=PROBABILITY_KA,
    bundle_id="bundle",
)


def wrong(answer: Answer, expected: Answer = EXPECTED) -> list[str]:
    return compare(answer, replace(expected, item_id_K=answer.item_id_K), SEEN, 3, 1e-4)[1]


def test_a_right_answer_passes() -> None:
    assert wrong(EXPECTED) == []


def test_differences_up_to_the_tolerance_pass_and_are_told() -> None:
    near = replace(EXPECTED, score_K=EXPECTED.score_K + np.float32(5e-5))
    difference, told = compare(near, EXPECTED, SEEN, 3, 1e-4)
    assert told == []
    assert difference == pytest.approx(5e-5, rel=0.1)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"score_K": np.array([1.5, 1.3, 0.702], np.float32)}, "SCORES differs by 0.002"),
        ({"score_K": np.array([1.5, np.nan, 0.7], np.float32)}, "SCORES differs by nan"),
        ({"probability_KA": PROBABILITY_KA[[1, 0, 2]]}, "ACTION_PROBS differs by 0.4"),
        ({"item_id_K": np.array([10, 40, 20])}, "item 40 is in the history"),
        ({"bundle_id": "other"}, "BUNDLE_ID is other"),
    ],
)
def test_a_wrong_answer_is_told(changed: dict[str, object], message: str) -> None:
    told = wrong(replace(EXPECTED, **changed))
    assert len(told) == 1
    assert message in told[0]


def test_an_item_that_comes_twice_is_told() -> None:
    assert "2 different items; allowed: 3" in wrong(replace(EXPECTED, item_id_K=np.array([10, 10, 20])))


def test_right_scores_in_a_wrong_order_are_told() -> None:
    order = [0, 2, 1]
    shuffled = Answer(
        EXPECTED.item_id_K[order], EXPECTED.score_K[order], EXPECTED.probability_KA[order], "bundle"
    )
    assert wrong(shuffled, shuffled) == ["SCORES rise; allowed: sorted, highest first"]


def test_a_missing_result_is_told() -> None:
    short = Answer(EXPECTED.item_id_K[:2], EXPECTED.score_K[:2], EXPECTED.probability_KA[:2], "bundle")
    assert wrong(short, short) == ["2 different items; allowed: 3"]


def test_compared_samples_are_spread_over_the_run() -> None:
    answers = [
        RecordedAnswer(UserHistory(str(user), *(np.arange(2) for _ in range(4))), EXPECTED)
        for user in range(101)
    ]
    assert [recorded.history.user_id for recorded in evenly(answers, 5)] == ["0", "25", "50", "75", "100"]
    assert len(evenly(answers[:3], 5)) == 3
    assert evenly([], 5) == []
