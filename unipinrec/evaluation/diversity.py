"""How varied recommendations are: over all users, and within one list.

Shapes: B users, K items of one user's list, V items of the catalogue, E vector width.
"""

from collections.abc import Sequence

import numpy as np

from unipinrec.arrays import AnyFloats, Float64s, Int64s
from unipinrec.evaluation.checks import check_at_least, check_indices, check_numbers


def item_coverage(lists: Sequence[Int64s], num_items: int, k: int) -> float:
    """Return the share of the catalogue that the first `k` of all users' lists hold.

    `lists` are item rows, best first. Raises `ValueError` if all are empty, a row is not in the catalogue, or
    k is below 1.
    """
    check_at_least("k", k, 1)
    shown = np.concatenate([np.empty(0, np.int64), *(row_K[:k] for row_K in lists)])
    check_at_least("recommended items", len(shown), 1)
    check_indices("item row", shown, num_items)
    return len(np.unique(shown)) / num_items


def intra_list_diversity(lists: Sequence[Int64s], vector_VE: AnyFloats) -> Float64s:
    """Return the mean of 1 - cosine over all pairs of each list's items, [B]: 0 for copies, 1 for unrelated.

    Raises `ValueError` if a list has fewer than two items, a row is not in the catalogue, or the vector of a
    listed item is 0 or holds nan.
    """
    return np.array([_diversity(user, row_K, vector_VE) for user, row_K in enumerate(lists)], np.float64)


def _diversity(user: int, row_K: Int64s, vector_VE: AnyFloats) -> float:
    check_at_least(f"items of user {user}", len(row_K), 2)
    check_indices("item row", row_K, len(vector_VE))
    vector_KE = vector_VE[row_K].astype(np.float64)
    check_numbers(f"vectors of user {user}'s items", vector_KE)
    length_K = np.linalg.norm(vector_KE, axis=1)
    if not length_K.all():
        raise ValueError(
            f"vector of item row {row_K[length_K == 0][0]} is 0; allowed: a vector with a length"
        )
    unit_KE = vector_KE / length_K[:, None]
    # The squared length of the sum holds every pair twice, and every item with itself.
    pairs = len(row_K) * (len(row_K) - 1)
    return float(1.0 - ((unit_KE.sum(axis=0) ** 2).sum() - len(row_K)) / pairs)
