"""Sampled answers: what is right passes, and each way of being wrong is told."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.caller import Answer
from benchmarks.correctness import Expected, compare, evenly
from benchmarks.load import Sample
from benchmarks.workload import ColdTraffic, EventSpace

SPACE = EventSpace(items=9, actions=2, surfaces=1, max_history=4, window_block=2)
VISIT = ColdTraffic(SPACE, 1).take()
PROBABILITY_KA = np.array([[0.9, 0.2], [0.5, 0.5], [0.1, 0.3]], np.float32)
ANSWER = Answer(
    item_id_K=np.array([30, 10, 20]),
    score_K=np.array([1.3, 1.5, 0.7], np.float32)[[1, 0, 2]],
    probability_KA=PROBABILITY_KA[[1, 0, 2]],
    bundle_id="bundle",
)
EXPECTED = Expected(
    probability_KA=PROBABILITY_KA[[1, 0, 2]],
    utility_A=np.array([1.0, 2.0], np.float32),
    history_item_id_N=np.array([40, 50]),
    num_results=3,
    bundle_id="bundle",
)


def wrong(answer: Answer, expected: Expected = EXPECTED) -> list[str]:
    return list(compare(Sample(VISIT, answer), expected, 1e-4).wrong)


def test_a_right_answer_passes() -> None:
    assert wrong(ANSWER) == []


def test_differences_up_to_the_tolerance_pass_and_are_told() -> None:
    near = replace(ANSWER, score_K=ANSWER.score_K + np.float32(5e-5))
    assert wrong(near) == []
    assert compare(Sample(VISIT, near), EXPECTED, 1e-4).difference == pytest.approx(5e-5, rel=0.1)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"score_K": np.array([1.5, 1.3, 0.702], np.float32)}, "SCORES differs by 0.002"),
        ({"score_K": np.array([1.5, np.nan, 0.7], np.float32)}, "SCORES differs by nan"),
        ({"probability_KA": PROBABILITY_KA}, "ACTION_PROBS differs by 0.4"),
        ({"item_id_K": np.array([30, 40, 20])}, "item 40 is in the history"),
        ({"item_id_K": np.array([30, 30, 20])}, "2 different items; allowed: 3"),
        ({"bundle_id": "other"}, "BUNDLE_ID is other"),
    ],
)
def test_a_wrong_answer_is_told(changed: dict[str, object], message: str) -> None:
    told = wrong(replace(ANSWER, **changed))
    assert len(told) == 1
    assert message in told[0]


def test_right_scores_in_a_wrong_order_are_told() -> None:
    order = [0, 2, 1]
    shuffled = Answer(
        ANSWER.item_id_K[order], ANSWER.score_K[order], ANSWER.probability_KA[order], ANSWER.bundle_id
    )
    expected = replace(EXPECTED, probability_KA=EXPECTED.probability_KA[order])
    assert wrong(shuffled, expected) == ["SCORES rise; allowed: sorted, highest first"]


def test_a_missing_result_is_told() -> None:
    short = Answer(ANSWER.item_id_K[:2], ANSWER.score_K[:2], ANSWER.probability_KA[:2], ANSWER.bundle_id)
    told = wrong(short, replace(EXPECTED, probability_KA=EXPECTED.probability_KA[:2]))
    assert told == ["2 different items; allowed: 3"]


def test_compared_samples_are_spread_over_the_run() -> None:
    samples = [Sample(replace(VISIT, user=user), ANSWER) for user in range(101)]
    assert [one.visit.user for one in evenly(samples, 5)] == [0, 25, 50, 75, 100]
    assert len(evenly(samples[:3], 5)) == 3
    assert evenly([], 5) == []
