"""Ranking within feedviews: whether what got an action is among the first few of its slate.

Shapes: F feedviews, S shown items of all feedviews, A actions.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from unipinrec.evaluation.checks import (
    check_at_least,
    check_numbers,
    check_offsets,
    check_shape,
)


def hit_at_k(
    score_SA: NDArray[np.floating[Any]],
    label_SA: NDArray[np.bool_],
    offset_F1: NDArray[np.int64],
    k: int = 3,
) -> NDArray[np.float64]:
    """Hit@k of each feedview and action, [F, A]; nan where no item of the feedview got the action.

    1 when an item with the action is among the first `k` of the feedview by that action's score, else 0
    (UniPinRec, table 1). Items of equal scores come in random order: the value is the exact expectation, so a
    constant score earns what guessing does. A feedview of `k` items or fewer is always hit.

    Args:
        score_SA: higher is better; items of one feedview are consecutive.
        label_SA: whether the item got the action.
        offset_F1: items of feedview f are `offset_F1[f]` to `offset_F1[f + 1]`.
        k: places that count.

    Raises:
        ValueError: a score is nan, shapes differ, offsets do not cover the items, or k is below 1.
    """
    check_numbers("scores", score_SA)
    check_shape("labels", label_SA, score_SA.shape)
    check_offsets("offsets", offset_F1, len(score_SA))
    check_at_least("k", k, 1)
    hit_FA = np.empty((len(offset_F1) - 1, score_SA.shape[1]))
    for action in range(score_SA.shape[1]):
        label_S = label_SA[:, action].astype(np.bool_)
        hit_FA[:, action] = _expected_hit(score_SA[:, action], label_S, offset_F1, k)
    return hit_FA


def _expected_hit(
    score_S: NDArray[np.floating[Any]], label_S: NDArray[np.bool_], offset_F1: NDArray[np.int64], k: int
) -> NDArray[np.float64]:
    size_F = np.diff(offset_F1)
    feedview_S = np.repeat(np.arange(len(size_F)), size_F)
    places_F = np.minimum(size_F, k)
    last_S = score_S[np.lexsort((-score_S, feedview_S))]
    cutoff_F = np.full(len(size_F), -np.inf)
    cutoff_F[size_F > 0] = last_S[(offset_F1[:-1] + places_F - 1)[size_F > 0]]
    above_S, tied_S = score_S > cutoff_F[feedview_S], score_S == cutoff_F[feedview_S]

    def count(row_S: NDArray[np.bool_]) -> NDArray[np.int64]:
        return np.bincount(feedview_S[row_S], minlength=len(size_F))

    free_F = places_F - count(above_S)
    miss_F = _none_drawn(count(tied_S), count(tied_S & label_S), free_F, k)
    hit_F = np.where(count(above_S & label_S) > 0, 1.0, 1.0 - miss_F)
    return np.where(count(label_S) > 0, hit_F, np.nan)


def _none_drawn(
    items_F: NDArray[np.int64], positives_F: NDArray[np.int64], draws_F: NDArray[np.int64], k: int
) -> NDArray[np.float64]:
    """Probability that `draws_F` (at most k) of `items_F`, without putting back, hold no positive."""
    probability_F = np.ones(len(items_F))
    for drawn in range(k):
        left_F = items_F - drawn
        negative_share_F = np.maximum(left_F - positives_F, 0) / np.maximum(left_F, 1)
        probability_F *= np.where(drawn < draws_F, negative_share_F, 1.0)
    return probability_F
