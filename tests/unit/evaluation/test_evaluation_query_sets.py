"""Several query embeddings per user, against a search written out in plain loops."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from unipinrec.evaluation.query_sets import retrieve_union, unordered_recall

# Inner products with the query (1, 0) are 4, 3, 2, 1, 0 and with (0, 1) are 0, 3, 1, 4, 2.
ITEM_VE = np.array([[4.0, 0], [3, 3], [2, 1], [1, 4], [0, 2]])
BOTH_QUERIES = np.eye(2)[None]
NOTHING = [np.array([], np.int64)]


@pytest.mark.parametrize(
    ("budget", "exclude", "rows"),
    [
        (2, [], [0, 1, 3, 4]),
        (2, [1], [0, 2, 3, 4]),
        ([1, 3], [], [0, 3, 1, 4]),
        ([0, 2], [], [3, 1]),
        ([3, 0], [], [0, 1, 2]),
        (4, [2], [0, 1, 3, 4]),
        (0, [], []),
    ],
)
def test_the_union_of_two_queries(budget: int | list[int], exclude: list[int], rows: list[int]) -> None:
    asked = budget if isinstance(budget, int) else np.array(budget)
    found = retrieve_union(BOTH_QUERIES, ITEM_VE, asked, [np.array(exclude, np.int64)])
    assert found[0].tolist() == rows


def test_each_user_has_own_queries_budgets_and_exclusions() -> None:
    query_BQE = np.stack([np.eye(2), np.eye(2)[::-1]])
    budget_BQ = np.array([[1, 1], [2, 0]])
    exclude = [np.array([0]), np.array([], np.int64)]
    lists = retrieve_union(query_BQE, ITEM_VE, budget_BQ, exclude)
    assert [row_N.tolist() for row_N in lists] == [[1, 3], [3, 1]]


@settings(deadline=None)
@given(
    arrays(np.int64, (2, 3, 2), elements=st.integers(-2, 2)),
    arrays(np.int64, (9, 2), elements=st.integers(-2, 2)),
    arrays(np.int64, (2, 3), elements=st.integers(0, 5)),
    st.lists(st.sets(st.integers(0, 8)), min_size=2, max_size=2),
)
def test_the_union_is_that_of_a_plain_search(
    query_BQE: np.ndarray, item_VE: np.ndarray, budget_BQ: np.ndarray, exclude: list[set[int]]
) -> None:
    exclude_BX = [np.array(sorted(rows), np.int64) for rows in exclude]
    lists = retrieve_union(query_BQE.astype(float), item_VE.astype(float), budget_BQ, exclude_BX)
    for user, row_N in enumerate(lists):
        expected: list[int] = []
        for query_E, budget in zip(query_BQE[user], budget_BQ[user], strict=True):
            allowed = [row for row in range(9) if row not in exclude[user] and row not in expected]
            expected += sorted(allowed, key=lambda row: (-int(query_E @ item_VE[row]), row))[:budget]
        assert row_N.tolist() == expected


def test_many_queries_retrieve_as_many_as_one_with_their_whole_budget() -> None:
    random = np.random.default_rng(0)
    query_BQE, item_VE = random.normal(size=(20, 4, 8)), random.normal(size=(100, 8))
    exclude = [random.integers(100, size=10) for _ in range(20)]
    many = retrieve_union(query_BQE, item_VE, 5, exclude)
    single = retrieve_union(query_BQE[:, :1], item_VE, 20, exclude)
    assert {len(row_N) for row_N in many} == {len(row_N) for row_N in single} == {20}


def test_recall_is_the_share_of_targets_found_in_whatever_order() -> None:
    lists = [np.array([5, 3, 1]), np.array([2]), np.array([], np.int64), np.array([7, 8])]
    targets = [np.array([1, 5, 4, 9]), np.array([2]), np.array([0]), np.array([8, 8, 9])]
    assert unordered_recall(lists, targets).tolist() == [0.5, 1.0, 0.0, 0.5]


@settings(deadline=None)
@given(st.lists(st.tuples(st.sets(st.integers(0, 9)), st.sets(st.integers(0, 9), min_size=1))))
def test_recall_is_that_of_sets(users: list[tuple[set[int], set[int]]]) -> None:
    lists, targets = ([np.array(sorted(user[side]), np.int64) for user in users] for side in (0, 1))
    expected = [len(rows & wanted) / len(wanted) for rows, wanted in users]
    assert unordered_recall(lists, targets) == pytest.approx(expected)


def test_recall_without_a_target_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^targets of user 0 is 0; allowed: 1 or more$"):
        unordered_recall([np.array([1])], NOTHING)


def test_recall_of_other_users_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^length of targets is 1; allowed: 2$"):
        unordered_recall([np.array([1]), np.array([2])], [np.array([1])])


@pytest.mark.parametrize(
    ("query", "budget", "exclude", "message"),
    [
        ([[[1.0, np.nan]]], 1, [[]], r"queries\[0, 0, 1\] is nan; allowed: a number"),
        ([[[1.0, 2.0, 3.0]]], 1, [[]], r"shape of items is \(5, 2\); allowed: \(5, 3\)"),
        ([[[1.0, 2.0]]], -1, [[]], "smallest budget is -1; allowed: 0 or more"),
        ([[[1.0, 2.0]]], 1, [[-1]], "excluded item row is -1; allowed: 0 to 4"),
        ([[[1.0, 2.0]]], 1, [[], []], "length of exclude is 2; allowed: 1"),
    ],
)
def test_what_cannot_be_searched_is_refused(
    query: list[list[list[float]]], budget: int, exclude: list[list[int]], message: str
) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        retrieve_union(np.array(query), ITEM_VE, budget, [np.array(rows, np.int64) for rows in exclude])
