"""Means with 95 % confidence intervals: the percentile bootstrap (Efron and Tibshirani 1993, chapter 13).

Shapes: X values, C clusters of values, B resamples drawn at once.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from unipinrec.arrays import Float64s, Int64s
from unipinrec.evaluation.checks import check_at_least, check_numbers, check_shape

RESAMPLES = 1000
SEED = 0
"""Seeds the choice of clusters, so that equal values have equal intervals."""
NUMBERS_AT_ONCE = 2_000_000
"""Numbers held of resamples drawn at once: 16 MB an array."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with its 95 % bootstrap confidence interval."""

    mean: float
    low: float
    high: float


def estimate(
    value_X: Float64s, *, weight_X: Float64s | Int64s | None = None, cluster_X: Int64s | None = None
) -> Estimate:
    """Return the weighted mean, with percentiles 2.5 and 97.5 of the weighted means of resampled clusters.

    Without weights all weigh the same. `cluster_X` says whose each value is, the user's index, say: a
    cluster is drawn with all its values, since values of one user are not independent. Without it, every
    value is a cluster.

    Raises `ValueError` if there are no values, one is nan, a weight is not above 0, or shapes differ.
    """
    check_at_least("values", len(value_X), 1)
    check_numbers("values", value_X)
    share_X = np.ones(len(value_X)) if weight_X is None else weight_X.astype(np.float64)
    check_shape("weights", share_X, value_X.shape)
    if not (share_X > 0).all():
        raise ValueError(f"smallest weight is {share_X.min()}; allowed: above 0")
    total_C, weight_C = value_X * share_X, share_X
    if cluster_X is not None:
        check_shape("clusters", cluster_X, value_X.shape)
        index_X = np.unique(cluster_X, return_inverse=True)[1]
        total_C = np.bincount(index_X, total_C).astype(np.float64)
        weight_C = np.bincount(index_X, share_X).astype(np.float64)
    means = [
        (count_BC @ total_C) / (count_BC @ weight_C)
        for count_BC in resampled_counts(len(total_C), len(total_C))
    ]
    return Estimate(float(total_C.sum() / weight_C.sum()), *interval(np.concatenate(means)))


def difference(a_X: Float64s, b_X: Float64s, *, cluster_X: Int64s | None = None) -> Estimate:
    """Return the mean of a - b with its interval, from values of the same users in the same order.

    Paired: what makes a user easy or hard for both cancels, so the interval is narrower than those of the
    two suggest. The recommenders differ, at 95 %, when it leaves out 0. Raises `ValueError` as `estimate`.
    """
    check_shape("b", b_X, a_X.shape)
    return estimate(a_X - b_X, cluster_X=cluster_X)


def resampled_counts(clusters: int, numbers: int) -> Iterator[Float64s]:
    """Yield how often each cluster is in each of `RESAMPLES` resamples, [B, C] of them at once.

    `numbers` is how many numbers the caller holds of one resample: the more, the fewer come at once. What is
    drawn does not depend on it.
    """
    random = np.random.default_rng(SEED)
    at_once = max(NUMBERS_AT_ONCE // max(numbers, clusters), 1)
    for begin in range(0, RESAMPLES, at_once):
        size = min(at_once, RESAMPLES - begin)
        drawn_BC = random.integers(clusters, size=(size, clusters)) + clusters * np.arange(size)[:, None]
        count_BC = np.bincount(drawn_BC.ravel(), minlength=size * clusters).reshape(size, clusters)
        yield count_BC.astype(np.float64)


def interval(statistics: Float64s) -> tuple[float, float]:
    """Return percentiles 2.5 and 97.5 of the resamples' statistics, without those that are nan."""
    known = statistics[~np.isnan(statistics)]
    low, high = np.percentile(known, [2.5, 97.5]) if len(known) else (np.nan, np.nan)
    return float(low), float(high)
