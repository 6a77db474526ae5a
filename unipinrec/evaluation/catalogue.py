"""Ranking over the full catalogue: the target's rank, Recall@k and NDCG@k.

Shapes: U users, B users of one chunk, V items of the catalogue, N events of one user.
"""

from collections.abc import Callable

import numpy as np

from unipinrec.arrays import AnyFloats, Float64s, Int64s
from unipinrec.data.interactions import InteractionDataset
from unipinrec.evaluation.checks import check_numbers

Scorer = Callable[[Int64s, Int64s], AnyFloats]
"""User indices [B] and the lengths [B] of their known histories to scores [B, V]; higher is better."""


def rank_of_target(scores_V: AnyFloats, target: int, exclude_rows: Int64s) -> int:
    """Return the rank of the target among all items but `exclude_rows`, from 1; the target always takes part.

    Of equal scores, the lower item row ranks first. Raises `ValueError` if a score is nan.
    """
    check_numbers("scores", scores_V)
    better_V = scores_V > scores_V[target]
    better_V[:target] |= scores_V[:target] == scores_V[target]
    better_V[exclude_rows] = False
    return 1 + int(better_V.sum())


def ranks_after(
    scorer: Scorer, dataset: InteractionDataset, user_U: Int64s, length_U: Int64s, chunk_users: int = 256
) -> Int64s:
    """Return the rank of each user's event at `length_U`, scored from the `length_U` events before it, [U].

    The items of those earlier events are left out of the ranking.
    """
    ranks = []
    for begin in range(0, len(user_U), chunk_users):
        user_B, length_B = user_U[begin : begin + chunk_users], length_U[begin : begin + chunk_users]
        for user, length, scores_V in zip(user_B, length_B, scorer(user_B, length_B), strict=True):
            item_row_N = dataset.history(user).item_row_N
            ranks.append(rank_of_target(scores_V, int(item_row_N[length]), item_row_N[:length]))
    return np.array(ranks, np.int64)


def recall_at_k(rank_U: Int64s, k: int) -> Float64s:
    """Return Recall@k of each user with one target: 1 when it is among the first k, [U]."""
    return (rank_U <= k).astype(np.float64)


def ndcg_at_k(rank_U: Int64s, k: int) -> Float64s:
    """Return NDCG@k of each user with one target: 1 / log2(rank + 1) when it is among the first k, else 0."""
    return np.where(rank_U <= k, 1.0 / np.log2(rank_U + 1.0), 0.0)
