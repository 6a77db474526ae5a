"""Coverage and diversity, against hands, sets and scikit-learn's cosines."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics.pairwise import cosine_similarity

from unipinrec.evaluation.diversity import intra_list_diversity, item_coverage

LISTS = [np.array([0, 1, 5]), np.array([1, 2])]


@pytest.mark.parametrize(("k", "distinct"), [(1, 2), (2, 3), (3, 4)])
def test_coverage_counts_distinct_items_of_the_first_k(k: int, distinct: int) -> None:
    assert item_coverage(LISTS, 10, k) == distinct / 10


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 7), unique=True), min_size=1), st.integers(1, 8))
def test_coverage_is_that_of_sets(lists: list[list[int]], k: int) -> None:
    shown = [row for rows in lists for row in rows[:k]]
    if shown:
        coverage = item_coverage([np.array(rows, np.int64) for rows in lists], 8, k)
        assert coverage == len(set(shown)) / 8


def test_diversity_is_one_minus_cosine_over_pairs() -> None:
    vector_VE = np.array([[2.0, 0], [0, 3], [-1, 0], [5, 0]])
    # Pairs of 0, 1, 2: right angle, opposite, right angle: (1 + 2 + 1) / 3.
    lists = [np.array([0, 1, 2]), np.array([0, 3]), np.array([0, 2])]
    assert intra_list_diversity(lists, vector_VE) == pytest.approx([4 / 3, 0.0, 2.0])


@settings(deadline=None)
@given(
    arrays(np.float32, (8, 3), elements=st.integers(-9, 9).map(float)).filter(
        lambda v: bool(v.any(axis=1).all())
    ),
    st.lists(st.integers(0, 7), min_size=2),
)
def test_diversity_is_the_mean_over_pairs_of_scikit_learn(vector_VE: np.ndarray, rows: list[int]) -> None:
    cosine_VV = cosine_similarity(vector_VE)
    expected = np.mean([1 - cosine_VV[first, second] for first, second in combinations(rows, 2)])
    assert intra_list_diversity([np.array(rows)], vector_VE) == pytest.approx([expected], abs=1e-5)


@pytest.mark.parametrize(
    ("lists", "k", "message"),
    [
        ([[]], 3, "recommended items is 0; allowed: 1 or more"),
        ([[1, -1]], 3, "item row is -1; allowed: 0 to 9"),
        ([[1, 10]], 3, "item row is 10; allowed: 0 to 9"),
        ([[1]], 0, "k is 0; allowed: 1 or more"),
    ],
)
def test_what_covers_nothing_is_refused(lists: list[list[int]], k: int, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        item_coverage([np.array(rows, np.int64) for rows in lists], 10, k)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([0], "items of user 0 is 1; allowed: 2 or more"),
        ([0, 3], "item row is 3; allowed: 0 to 2"),
        ([0, 1], "vector of item row 1 is 0; allowed: a vector with a length"),
        ([0, 2], r"vectors of user 0's items\[1, 0\] is nan; allowed: a number"),
    ],
)
def test_what_has_no_angles_is_refused(rows: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        intra_list_diversity([np.array(rows)], np.array([[1.0, 0], [0, 0], [np.nan, 1]]))
