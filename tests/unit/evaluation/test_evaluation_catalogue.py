"""Ranks, Recall@k and NDCG@k over the catalogue, against numbers worked out by hand and scikit-learn."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score, top_k_accuracy_score

from tests.support.sequences import SEQUENCES, sequence_dataset
from unipinrec.data.interactions import split_leave_one_out
from unipinrec.evaluation.catalogue import ndcg_at_k, rank_of_target, ranks_after, recall_at_k
from unipinrec.models.baselines.counting import Popularity

NOTHING = np.array([], np.int64)


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


@settings(deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=12), st.data())
def test_rank_is_the_position_in_the_sorted_catalogue(scores: list[int], data: st.DataObject) -> None:
    target = data.draw(st.integers(0, len(scores) - 1))
    exclude = data.draw(st.sets(st.integers(0, len(scores) - 1)))
    kept = [row for row in range(len(scores)) if row == target or row not in exclude]
    better = sorted(kept, key=lambda row: (-scores[row], row)).index(target)
    assert (
        rank_of_target(np.array(scores, np.float64), target, np.array(sorted(exclude), np.int64))
        == better + 1
    )


def test_a_score_that_is_nan_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^scores\[1\] is nan; allowed: a number$"):
        rank_of_target(np.array([0.1, np.nan, 0.2]), 2, NOTHING)


def test_recall_and_ndcg_of_ranks() -> None:
    rank_U = np.array([1, 3, 10, 11])
    assert recall_at_k(rank_U, 10).tolist() == [1, 1, 1, 0]
    assert ndcg_at_k(rank_U, 10) == pytest.approx([1.0, 0.5, 0.2890648, 0.0], abs=1e-6)


@pytest.mark.parametrize("k", [1, 3, 10])
def test_recall_and_ndcg_are_those_of_scikit_learn(k: int) -> None:
    random = np.random.default_rng(0)
    scores_UV, target_U = random.normal(size=(200, 30)), random.integers(30, size=200)
    pairs = zip(scores_UV, target_U.tolist(), strict=True)
    rank_U = np.array([rank_of_target(scores_V, target, NOTHING) for scores_V, target in pairs])
    accuracy = top_k_accuracy_score(target_U, scores_UV, k=k, labels=np.arange(30))
    assert recall_at_k(rank_U, k).mean() == pytest.approx(accuracy)
    assert ndcg_at_k(rank_U, k).mean() == pytest.approx(ndcg_score(np.eye(30)[target_U], scores_UV, k=k))


@pytest.mark.parametrize("chunk_users", [1, 2, 256])
def test_test_ranks_leave_out_the_earlier_history(tmp_path: Path, chunk_users: int) -> None:
    dataset = sequence_dataset(tmp_path / "toy", SEQUENCES)
    split = split_leave_one_out(dataset)
    user_U = np.flatnonzero(split.held_out_U)
    length_U = split.train_end_U[user_U] + 1
    popularity = Popularity(dataset, split.train_end_U + split.held_out_U)
    # Left to rank: u 3, 4 (1 and 1: the lower row first); v 2, 3, 4 (2, 1, 1); w 1, 4 (2, 1).
    ranks = ranks_after(popularity, dataset, user_U, length_U, chunk_users)
    assert ranks.tolist() == [1, 2, 1]


def test_ranks_keep_items_that_come_later_in_the_history(tmp_path: Path) -> None:
    dataset = sequence_dataset(tmp_path / "toy", SEQUENCES)
    popularity = Popularity(dataset, np.array([4, 3, 4, 1]))
    # Counts 3, 3, 2, 3, 1. After the first event of u, item 2 is behind 1 and 3, which u has later.
    # After two events of w, 0 and 2, item 3 is behind 1.
    ranks = ranks_after(popularity, dataset, np.array([0, 0, 2]), np.array([1, 2, 2]))
    assert ranks.tolist() == [1, 2, 2]
