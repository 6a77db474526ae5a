"""Bootstrap intervals against known distributions and a plain loop over resamples."""

import numpy as np
import pytest
from numpy.typing import NDArray

from unipinrec.evaluation import bootstrap
from unipinrec.evaluation.bootstrap import difference, estimate

VALUES = np.random.default_rng(0).exponential(size=60)


def looped(
    value_X: NDArray[np.float64], weight_X: NDArray[np.float64], cluster_X: NDArray[np.int64]
) -> tuple[float, float]:
    """The interval, with one resample at a time and the drawn clusters' values copied out."""
    random = np.random.default_rng(bootstrap.SEED)
    clusters = np.unique(cluster_X)
    means = []
    for _ in range(1000):
        drawn = clusters[random.integers(len(clusters), size=len(clusters))]
        drawn_X = np.concatenate([np.flatnonzero(cluster_X == cluster) for cluster in drawn])
        means.append(np.average(value_X[drawn_X], weights=weight_X[drawn_X]))
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def test_the_interval_is_that_of_the_binomial() -> None:
    value_U = np.repeat([0.0, 1.0], [300, 100])
    interval = estimate(value_U)
    # Standard error sqrt(.25 * .75 / 400) = .02165; times 1.96 = .0424.
    assert interval.mean == 0.25
    assert interval.low == pytest.approx(0.25 - 0.0424, abs=0.006)
    assert interval.high == pytest.approx(0.25 + 0.0424, abs=0.006)
    assert interval == estimate(value_U)


def test_resampling_at_once_is_resampling_one_by_one() -> None:
    found = estimate(VALUES)
    assert (found.low, found.high) == pytest.approx(looped(VALUES, np.ones(60), np.arange(60)))


def test_weights_and_clusters_are_those_of_the_plain_loop() -> None:
    random = np.random.default_rng(1)
    weight_X, cluster_X = random.uniform(0.5, 3, size=60), random.choice([3, 5, 8, 13, 21], size=60)
    found = estimate(VALUES, weight_X=weight_X, cluster_X=cluster_X)
    assert found.mean == pytest.approx(np.average(VALUES, weights=weight_X))
    assert (found.low, found.high) == pytest.approx(looped(VALUES, weight_X, cluster_X))


def test_values_of_one_cluster_tell_no_more_than_one() -> None:
    once = estimate(VALUES)
    copied = estimate(np.repeat(VALUES, 5), cluster_X=np.repeat(np.arange(60), 5))
    assert (copied.mean, copied.low, copied.high) == pytest.approx((once.mean, once.low, once.high))


def test_how_many_resamples_come_at_once_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    at_once = estimate(VALUES)
    monkeypatch.setattr(bootstrap, "NUMBERS_AT_ONCE", 7 * 60)
    in_parts = estimate(VALUES)
    assert (in_parts.low, in_parts.high) == pytest.approx((at_once.low, at_once.high))


def test_a_difference_is_paired() -> None:
    # b is 0.1 below a for every user, so no resample of users sees another difference.
    found = difference(VALUES, VALUES - 0.1)
    assert (found.mean, found.low, found.high) == pytest.approx((0.1, 0.1, 0.1))
    assert difference(VALUES, VALUES[::-1].copy()).high > 0.1


@pytest.mark.parametrize(
    ("value", "weight", "message"),
    [
        ([], None, "values is 0; allowed: 1 or more"),
        ([1.0, np.nan], None, r"values\[1\] is nan; allowed: a number"),
        ([1.0, 2.0], [1, 0], "smallest weight is 0.0; allowed: above 0"),
        ([1.0, 2.0], [1], r"shape of weights is \(1,\); allowed: \(2,\)"),
    ],
)
def test_what_has_no_mean_is_refused(value: list[float], weight: list[int] | None, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        estimate(np.array(value), weight_X=None if weight is None else np.array(weight))


def test_a_difference_of_other_users_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^shape of b is \(59,\); allowed: \(60,\)$"):
        difference(VALUES, VALUES[1:])
