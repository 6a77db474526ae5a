"""Retrieval with several query embeddings per user: the union of what they find, and its recall.

Shapes: B users, Q query embeddings of one user, V items of the catalogue, E vector width, X items left out,
N items found or sought for one user.
"""

from collections.abc import Sequence

import numpy as np

from unipinrec.arrays import AnyFloats, Float64s, Int64s
from unipinrec.evaluation.checks import check_at_least, check_indices, check_numbers, check_shape


def retrieve_union(
    query_BQE: AnyFloats, item_VE: AnyFloats, budget: int | Int64s, exclude: Sequence[Int64s]
) -> list[Int64s]:
    """Return the item rows that the query embeddings of each user find by inner product, without repeats.

    As the server searches: queries search in order, each takes its budget from items that no earlier one
    took, best first, of equal scores the lower row first. So Q queries of k items retrieve exactly as many
    candidates as one of Q x k, unless the catalogue runs out.

    Args:
        query_BQE: query embeddings in generation order.
        item_VE: the index.
        budget: items per query, the same for all, or [Q], or [B, Q]; 0 leaves a query out.
        exclude: for each user, item rows that are not to be found, [X].

    Raises `ValueError` if a number is nan, widths differ, a budget is negative, an excluded row is not in the
    index, or `exclude` is of another length.
    """
    check_numbers("queries", query_BQE)
    check_numbers("items", item_VE)
    check_shape("items", item_VE, (len(item_VE), query_BQE.shape[2]))
    if len(exclude) != len(query_BQE):
        raise ValueError(f"length of exclude is {len(exclude)}; allowed: {len(query_BQE)}")
    budget_BQ = np.broadcast_to(np.asarray(budget, np.int64), query_BQE.shape[:2])
    check_at_least("smallest budget", int(budget_BQ.min(initial=0)), 0)
    found = []
    for query_QE, budget_Q, exclude_X in zip(query_BQE, budget_BQ, exclude, strict=True):
        check_indices("excluded item row", exclude_X, len(item_VE))
        score_QV = query_QE @ item_VE.T
        score_QV[:, exclude_X] = -np.inf
        taken_N = np.empty(0, np.int64)
        for score_V, wanted in zip(score_QV, budget_Q.tolist(), strict=True):
            score_V[taken_N] = -np.inf
            taken_N = np.concatenate([taken_N, _best(score_V, wanted)])
        found.append(taken_N)
    return found


def unordered_recall(found: Sequence[Int64s], targets: Sequence[Int64s]) -> Float64s:
    """Return the share of each user's target items that are among those found, in whatever order, [B].

    With one target it is 1 or 0. Raises `ValueError` if a user has no target, or the lists are of different
    lengths.
    """
    if len(found) != len(targets):
        raise ValueError(f"length of targets is {len(targets)}; allowed: {len(found)}")
    for user, target_N in enumerate(targets):
        check_at_least(f"targets of user {user}", len(target_N), 1)
    shares = [
        np.isin(np.unique(target_N), found_N).mean() for found_N, target_N in zip(found, targets, strict=True)
    ]
    return np.array(shares, np.float64)


def _best(score_V: AnyFloats, count: int) -> Int64s:
    """The rows of the best scores above minus infinity, best first; of equal scores the lower row first."""
    cutoff = np.partition(score_V, -count)[-count] if 0 < count < len(score_V) else -np.inf
    row_N = np.flatnonzero((score_V >= cutoff) & (score_V > -np.inf))
    return row_N[np.argsort(-score_V[row_N], kind="stable")][:count]
