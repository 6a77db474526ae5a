"""Ranks, metrics and both baselines, against numbers worked out by hand."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from unipinrec.baselines import Markov, Popularity
from unipinrec.data.events import DatasetInfo
from unipinrec.data.interactions import InteractionDataset, split_leave_one_out
from unipinrec.data.prepared import write_prepared
from unipinrec.metrics import estimate, ndcg_at_k, rank_of_target, ranks_after, recall_at_k

SEQUENCES = {"u": [0, 1, 2, 3], "v": [0, 1, 3], "w": [0, 2, 3, 1], "x": [4]}
INFO = DatasetInfo(name="toy", actions=("watch",), sampled_impressions=True, utility_weights=(1.0,))


@pytest.fixture
def dataset(tmp_path: Path) -> InteractionDataset:
    rows = [(user, item, 1, time) for user, items in SEQUENCES.items() for time, item in enumerate(items)]
    events = pl.DataFrame(rows, ["user_id", "item_id", "actions", "timestamp"], orient="row")
    write_prepared(tmp_path / "toy", events, None, INFO)
    return InteractionDataset.load(tmp_path / "toy")


@pytest.mark.parametrize(
    ("target", "exclude", "rank"),
    [
        (2, [], 1),
        (0, [], 3),
        (3, [], 4),
        (4, [], 2),
        (3, [2, 0], 2),
        (3, [3, 4], 3),
        (1, [], 5),
    ],
)
def test_rank_counts_better_items_and_lower_rows_of_equal_score(
    target: int, exclude: list[int], rank: int
) -> None:
    scores_V = np.array([0.5, float("-inf"), 0.9, 0.5, 0.7])
    assert rank_of_target(scores_V, target, np.array(exclude, np.int64)) == rank


def test_a_score_that_is_nan_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^score of item row 1 is nan; allowed: a number$"):
        rank_of_target(np.array([0.1, np.nan, 0.2]), 2, np.array([], np.int64))


def test_recall_and_ndcg_of_ranks() -> None:
    rank_U = np.array([1, 3, 10, 11])
    assert recall_at_k(rank_U, 10).tolist() == [1, 1, 1, 0]
    assert ndcg_at_k(rank_U, 10) == pytest.approx([1.0, 0.5, 0.2890648, 0.0], abs=1e-6)


def test_the_interval_is_that_of_the_binomial() -> None:
    value_U = np.repeat([0.0, 1.0], [300, 100])
    interval = estimate(value_U, seed=1)
    # Standard error sqrt(.25 * .75 / 400) = .02165; times 1.96 = .0424.
    assert interval.mean == 0.25
    assert interval.low == pytest.approx(0.25 - 0.0424, abs=0.006)
    assert interval.high == pytest.approx(0.25 + 0.0424, abs=0.006)
    assert interval == estimate(value_U, seed=1)
    assert interval != estimate(value_U, seed=2)


def test_an_interval_of_nobody_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^users is 0; allowed: 1 or more$"):
        estimate(np.array([]))


def test_popularity_counts_events_before_the_end(dataset: InteractionDataset) -> None:
    end_U = split_leave_one_out(dataset).train_end_U
    assert end_U.tolist() == [2, 1, 2, 1]
    popularity = Popularity(dataset, end_U)
    assert popularity(np.array([0, 3]), np.array([1, 1])).tolist() == [[3, 1, 1, 0, 1], [3, 1, 1, 0, 1]]
    assert Popularity(dataset, end_U + np.array([1, 1, 1, 0])).count_V.tolist() == [3, 2, 2, 1, 1]


def test_markov_counts_transitions_and_fills_with_popularity(dataset: InteractionDataset) -> None:
    end_U = np.array([3, 2, 3, 1])
    # Within these: u 0-1-2, v 0-1, w 0-2-3, x 4. Popularity 3, 2, 2, 1, 1; fill = popularity / 4.
    markov = Markov(dataset, end_U, Popularity(dataset, end_U))
    scores_BV = markov(np.array([0, 1, 2, 3]), np.array([1, 2, 2, 0]))
    assert scores_BV.tolist() == [
        [0.75, 2.5, 1.5, 0.25, 0.25],
        [0.75, 0.5, 1.5, 0.25, 0.25],
        [0.75, 0.5, 0.5, 1.25, 0.25],
        [0.75, 0.5, 0.5, 0.25, 0.25],
    ]


@pytest.mark.parametrize("chunk_users", [1, 2, 256])
def test_test_ranks_leave_out_the_earlier_history(dataset: InteractionDataset, chunk_users: int) -> None:
    split = split_leave_one_out(dataset)
    user_U = np.flatnonzero(split.held_out_U)
    length_U = split.train_end_U[user_U] + 1
    popularity = Popularity(dataset, split.train_end_U + split.held_out_U)
    # Left to rank: u 3, 4 (1 and 1: the lower row first); v 2, 3, 4 (2, 1, 1); w 1, 4 (2, 1).
    ranks = ranks_after(popularity, dataset, user_U, length_U, chunk_users)
    assert ranks.tolist() == [1, 2, 1]
