"""How well scores order what got an action above what did not: AUC of all impressions, and per user.

Shapes: S impressions (a user was shown an item), P positives, N negatives, U users, G users with both labels,
B resamples drawn at once.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl

from unipinrec.arrays import AnyFloats, Bools, Float64s, Int64s
from unipinrec.evaluation.bootstrap import Estimate, estimate, interval, resampled_counts
from unipinrec.evaluation.checks import check_at_least, check_numbers, check_shape


@dataclass(frozen=True, slots=True)
class UserAuc:
    """AUC of each user with at least one positive and one negative, in ascending order of users."""

    user_G: Int64s
    auc_G: Float64s
    impressions_G: Int64s


def auc(score_S: AnyFloats, label_S: Bools) -> float:
    """Return the probability that a random positive scores above a random negative; a tie counts half.

    Raises `ValueError` if a score is nan, shapes differ, or one of the labels does not occur.
    """
    by_user = auc_by_user(score_S, label_S, np.zeros(len(score_S), np.int64))
    positives = int(np.count_nonzero(label_S))
    if positives in (0, len(label_S)):
        raise ValueError(f"positives is {positives} of {len(label_S)}; allowed: at least one, but not all")
    return float(by_user.auc_G[0])


def auc_estimate(score_S: AnyFloats, label_S: Bools, user_S: Int64s) -> Estimate:
    """Return `auc` of all impressions, with an interval from resampled users.

    Resamples in which one of the labels does not occur are left out. Raises `ValueError` as `auc` does.
    """
    mean = auc(score_S, label_S)
    return Estimate(mean, *interval(_resampled(score_S, label_S, user_S)))


def auc_difference(a_S: AnyFloats, b_S: AnyFloats, label_S: Bools, user_S: Int64s) -> Estimate:
    """Return `auc` of scores a less that of scores b, with an interval from the same resampled users.

    Paired, as `unipinrec.evaluation.bootstrap.difference`. Raises `ValueError` as `auc` does.
    """
    check_shape("b", b_S, a_S.shape)
    mean = auc(a_S, label_S) - auc(b_S, label_S)
    return Estimate(mean, *interval(_resampled(a_S, label_S, user_S) - _resampled(b_S, label_S, user_S)))


def _resampled(score_S: AnyFloats, label_S: Bools, user_S: Int64s) -> Float64s:
    """AUC of resampled users, the same ones for any scores; nan where one of the labels does not occur."""
    check_shape("users", user_S, score_S.shape)
    users, index_S = np.unique(user_S, return_inverse=True)
    label_S = label_S.astype(np.bool_)
    positive_P, negative_N = (np.flatnonzero(is_S)[np.argsort(score_S[is_S])] for is_S in (label_S, ~label_S))
    lower_P = np.searchsorted(score_S[negative_N], score_S[positive_P], "left")
    not_higher_P = np.searchsorted(score_S[negative_N], score_S[positive_P], "right")
    areas = []
    for count_BU in resampled_counts(len(users), len(score_S)):
        count_BP = count_BU[:, index_S[positive_P]]
        below_BN1 = np.pad(count_BU[:, index_S[negative_N]].cumsum(axis=1), ((0, 0), (1, 0)))
        won_B = (count_BP * (below_BN1[:, lower_P] + below_BN1[:, not_higher_P])).sum(axis=1) / 2
        pairs_B = count_BP.sum(axis=1) * below_BN1[:, -1]
        areas.append(np.divide(won_B, pairs_B, out=np.full_like(won_B, np.nan), where=pairs_B > 0))
    return np.concatenate(areas)


def auc_by_user(score_S: AnyFloats, label_S: Bools, user_S: Int64s) -> UserAuc:
    """Return `auc` within each user's impressions; users without both labels are left out.

    Raises `ValueError` if a score is nan, or shapes differ.
    """
    check_numbers("scores", score_S)
    check_shape("labels", label_S, score_S.shape)
    check_shape("users", user_S, score_S.shape)
    shown = pl.DataFrame({"user": user_S, "score": score_S, "label": label_S.astype(np.bool_)})
    positives, negatives = pl.col("positives"), pl.col("impressions") - pl.col("positives")
    by_user = (
        shown.with_columns(rank=pl.col("score").rank("average").over("user"))
        .group_by("user")
        .agg(
            impressions=pl.len().cast(pl.Int64),
            positives=pl.col("label").sum().cast(pl.Int64),
            ranks=pl.col("rank").filter("label").sum(),
        )
        .filter((positives > 0) & (negatives > 0))
        .sort("user")
        # Mann and Whitney: the positives' ranks, less what they would be without negatives, count pairs won.
        .with_columns(auc=(pl.col("ranks") - positives * (positives + 1) / 2) / (positives * negatives))
    )
    return UserAuc(*(by_user[name].to_numpy() for name in ("user", "auc", "impressions")))


def gauc(
    score_S: AnyFloats,
    label_S: Bools,
    user_S: Int64s,
    *,
    group_S: Int64s | None = None,
    other_S: AnyFloats | None = None,
) -> Estimate:
    """Return the mean of `auc_by_user` weighted by impressions, with an interval from resampled users.

    What separates users from one another cannot raise it (Zhou et al., Deep Interest Network, arXiv
    1706.06978, "Metrics"). With `group_S`, areas are those within groups, such as slates, each of which is
    one user's. With `other_S`, it is the paired difference: less what other scores reach.

    Raises `ValueError` as `auc_by_user` does, and if no user, or no group, has both labels.
    """
    group_S = user_S if group_S is None else group_S
    within = auc_by_user(score_S, label_S, group_S)
    check_at_least("users with both labels", len(within.auc_G), 1)
    area_G = within.auc_G if other_S is None else within.auc_G - auc_by_user(other_S, label_S, group_S).auc_G
    groups, first = np.unique(group_S, return_index=True)
    owner_G = user_S[first[np.searchsorted(groups, within.user_G)]]
    return estimate(area_G, weight_X=within.impressions_G, cluster_X=owner_G)
