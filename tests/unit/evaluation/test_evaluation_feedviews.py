"""Hit@k within feedviews, against hands, every order of ties, and scikit-learn."""

from itertools import pairwise, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import top_k_accuracy_score

from unipinrec.evaluation.feedviews import hit_at_k

Slate = list[tuple[int, bool]]
"""Score and label of each item: few scores, so that many tie."""
SLATES = st.lists(st.lists(st.tuples(st.integers(0, 2), st.booleans()), max_size=5), max_size=4)


def hits(slates: list[Slate], k: int = 3) -> list[float]:
    """Hit@k of each slate for one action."""
    rows = np.array([row for slate in slates for row in slate]).reshape(-1, 2)
    offset_F1 = np.cumsum([0, *(len(slate) for slate in slates)])
    return hit_at_k(rows[:, :1].astype(np.float64), rows[:, 1:].astype(bool), offset_F1, k)[:, 0].tolist()


@pytest.mark.parametrize(
    ("score", "label", "hit"),
    [
        ([9, 8, 7, 6], [0, 0, 1, 0], 1.0),
        ([9, 8, 7, 6], [0, 0, 0, 1], 0.0),
        ([6, 9, 8, 7], [1, 0, 0, 1], 1.0),
        ([5, 5, 5, 5, 5], [0, 0, 1, 0, 0], 3 / 5),
        ([5, 5, 5, 5, 5], [1, 0, 1, 0, 0], 9 / 10),
        ([9, 5, 5, 5], [0, 1, 0, 0], 2 / 3),
        ([9, 8, 5, 5], [0, 0, 1, 0], 1 / 2),
        ([9, 8, 7, 5, 5], [0, 0, 0, 1, 1], 0.0),
        ([1, 2, 3], [1, 0, 0], 1.0),
    ],
)
def test_ties_count_their_expectation(score: list[int], label: list[int], hit: float) -> None:
    assert hits([list(zip(score, map(bool, label), strict=True))]) == pytest.approx([hit])


def test_feedviews_without_the_action_have_no_hit() -> None:
    found = hits([[(1, False)], [], [(1, True)]])
    assert found == pytest.approx([np.nan, np.nan, 1.0], nan_ok=True)


def test_each_action_is_ranked_by_its_own_score() -> None:
    score_SA = np.array([[3.0, 1], [2, 2], [1, 3]])
    label_SA = np.array([[1, 1], [0, 0], [0, 0]], bool)
    assert hit_at_k(score_SA, label_SA, np.array([0, 3]), k=1).tolist() == [[1.0, 0.0]]


@settings(deadline=None, max_examples=60)
@given(SLATES, st.integers(1, 6))
def test_the_expectation_is_the_mean_over_all_orders_of_ties(slates: list[Slate], k: int) -> None:
    expected = []
    for slate in slates:
        orders = [order for order in permutations(slate) if _descends(order)]
        hit = np.mean([any(label for _, label in order[:k]) for order in orders])
        expected.append(float(hit) if any(label for _, label in slate) else np.nan)
    assert hits(slates, k) == pytest.approx(expected, nan_ok=True)


def _descends(order: tuple[tuple[int, bool], ...]) -> bool:
    return all(first[0] >= second[0] for first, second in pairwise(order))


@pytest.mark.parametrize("k", [1, 3])
def test_with_one_positive_and_no_ties_it_is_top_k_accuracy(k: int) -> None:
    random = np.random.default_rng(0)
    score_FN, positive_F = random.normal(size=(100, 8)), random.integers(8, size=100)
    label_SA = np.eye(8, dtype=bool)[positive_F].reshape(-1, 1)
    hit_FA = hit_at_k(score_FN.reshape(-1, 1), label_SA, np.arange(0, 801, 8), k)
    accuracy = top_k_accuracy_score(positive_F, score_FN, k=k, labels=np.arange(8))
    assert hit_FA.mean() == pytest.approx(accuracy)


@pytest.mark.parametrize(
    ("score", "label", "offset", "k", "message"),
    [
        ([[1.0], [np.nan]], [[0], [1]], [0, 2], 3, r"scores\[1, 0\] is nan; allowed: a number"),
        ([[1.0], [2.0]], [[0]], [0, 2], 3, r"shape of labels is \(1, 1\); allowed: \(2, 1\)"),
        ([[1.0], [2.0]], [[0], [1]], [0, 1], 3, r"offsets is \[0 1\]; allowed: ascending from 0 to 2"),
        (
            [[1.0], [2.0]],
            [[0], [1]],
            [0, 2, 1, 2],
            3,
            r"offsets is \[0 2 1 2\]; allowed: ascending from 0 to 2",
        ),
        ([[1.0], [2.0]], [[0], [1]], [0, 2], 0, "k is 0; allowed: 1 or more"),
    ],
)
def test_what_is_no_feedview_is_refused(
    score: list[list[float]], label: list[list[int]], offset: list[int], k: int, message: str
) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        hit_at_k(np.array(score), np.array(label, bool), np.array(offset), k)
