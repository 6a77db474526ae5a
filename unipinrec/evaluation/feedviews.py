"""Ranking within feedviews: whether what got an action is among the first few of its slate.

Shapes: F feedviews, S shown items of all feedviews, A actions.
"""

import numpy as np
import polars as pl
from scipy.stats import hypergeom

from unipinrec.arrays import AnyFloats, Bools, Float64s, Int64s
from unipinrec.evaluation.checks import check_at_least, check_numbers, check_shape


def hit_at_k(score_SA: AnyFloats, label_SA: Bools, offset_F1: Int64s, k: int = 3) -> Float64s:
    """Return Hit@k of each feedview and action, [F, A]; nan where no item of the feedview got the action.

    It is 1 when an item with the action is among the first `k` of the feedview by that action's score, else 0
    (UniPinRec, table 1). Items of equal scores come in random order: the value is the exact expectation, so a
    constant score earns what guessing does. A feedview of `k` items or fewer is always hit.

    Args:
        score_SA: higher is better; items of one feedview are consecutive.
        label_SA: whether the item got the action.
        offset_F1: items of feedview f are `offset_F1[f]` to `offset_F1[f + 1]`.
        k: ranks that count.

    Raises `ValueError` if a score is nan, shapes differ, offsets do not cover the items, or k is below 1.
    """
    check_numbers("scores", score_SA)
    check_shape("labels", label_SA, score_SA.shape)
    size_F = np.diff(offset_F1)
    if len(offset_F1) == 0 or offset_F1[0] != 0 or offset_F1[-1] != len(score_SA) or (size_F < 0).any():
        raise ValueError(f"offsets is {offset_F1}; allowed: ascending from 0 to {len(score_SA)}")
    check_at_least("k", k, 1)
    feedview_S = np.repeat(np.arange(len(size_F)), size_F)
    hit_FA = np.full((len(size_F), score_SA.shape[1]), np.nan)
    score, label = pl.col("score"), pl.col("label")
    cutoff = score.top_k(k).min()
    for action in range(score_SA.shape[1]):
        shown = pl.DataFrame(
            {"feedview": feedview_S, "score": score_SA[:, action], "label": label_SA[:, action] != 0}
        )
        slates = (
            shown.group_by("feedview")
            .agg(
                positives=label.sum(),
                hits=(label & (score > cutoff)).sum(),
                tied=(score == cutoff).sum(),
                tied_positives=(label & (score == cutoff)).sum(),
                drawn=pl.min_horizontal(pl.len(), k) - (score > cutoff).sum(),
            )
            .filter(pl.col("positives") > 0)
            .cast(pl.Int64)
        )
        # Of the items whose score is the k-th, a random draw takes the ranks that are left.
        missed = hypergeom.pmf(0, slates["tied"], slates["tied_positives"], slates["drawn"])
        hit_FA[slates["feedview"], action] = np.where(slates["hits"] > 0, 1.0, 1.0 - missed)
    return hit_FA
