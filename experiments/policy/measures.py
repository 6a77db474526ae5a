"""What is measured of policies where the truth is known.

A family is several policies that one would choose among: 25 alphas of a learner, or all static arms.

Shapes: R requests, K arms, M rewards (2), X policies of a family, A alphas, C users, B resamples.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from unipinrec.arrays import AnyFloats, Float32s, Float64s, Int64s
from unipinrec.evaluation.bootstrap import resampled_counts
from unipinrec.evaluation.pareto import hypervolume
from unipinrec.models.policy.judged import best_arms


def weighed(value_XM: AnyFloats, alpha: Float64s | float) -> Float64s:
    """Return what is maximised: alpha x second + (1 - alpha) x first reward, without the last axis."""
    first_X, second_X = np.moveaxis(value_XM.astype(np.float64), -1, 0)
    weighed_X: Float64s = alpha * second_X + (1 - alpha) * first_X
    return weighed_X


def arms_at(value_RKM: Float32s, alpha_A: Float64s) -> Int64s:
    """Return the best arm of every request at each alpha, [A, R]; of equally good ones the lowest."""
    return np.stack([best_arms(value_RKM, alpha) for alpha in alpha_A])


def earned(expected_RKM: AnyFloats, arm_XR: Int64s) -> Float64s:
    """Return what every policy would bring in each request, [X, R, M]."""
    return np.stack(
        [
            np.take_along_axis(expected_RKM, arm_R[:, None, None], axis=1)[:, 0].astype(np.float64)
            for arm_R in arm_XR
        ]
    )


def pearson(a_X: Float64s, b_X: Float64s) -> float:
    """Return the correlation of two series."""
    return float(np.corrcoef(a_X, b_X)[0, 1])


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over the requests of every user, from which means of any resample of users follow."""

    requests_C: Float64s
    family_CXM: Mapping[str, Float64s]
    """By name of the family: what its policies bring."""
    oracle_CA: Float64s
    """What the best arm of each request brings, at every alpha."""

    def means(self, count_C: Float64s | None = None) -> "Means":
        """Return means over all requests, or those of users that count as often as `count_C` says."""
        weight_C = np.ones(len(self.requests_C)) if count_C is None else count_C
        requests = float(weight_C @ self.requests_C)
        family_XM = {
            name: np.tensordot(weight_C, total_CXM, 1) / requests
            for name, total_CXM in self.family_CXM.items()
        }
        return Means(family_XM, weight_C @ self.oracle_CA / requests)

    def resamples(self) -> "list[Means]":
        """Return the means of 1,000 resamples of the users."""
        numbers = sum(total_CXM[0].size for total_CXM in self.family_CXM.values())
        return [
            self.means(count_C)
            for count_BC in resampled_counts(len(self.requests_C), numbers)
            for count_C in count_BC
        ]


@dataclass(frozen=True, slots=True)
class Means:
    """Mean rewards of all families in the same requests."""

    family_XM: Mapping[str, Float64s]
    oracle_A: Float64s

    def hypervolumes(self, reference_M: Float64s) -> dict[str, float]:
        """Return the area that every family dominates above a point."""
        return {name: hypervolume(mean_XM, reference_M) for name, mean_XM in self.family_XM.items()}

    def regrets(self, alpha_A: Float64s) -> dict[str, Float64s]:
        """Return by how much the policy of every alpha stays below the oracle, [A]. Of a family with other
        policies than one for each alpha, it is the best of them at that alpha."""
        return {name: self.oracle_A - self._at(mean_XM, alpha_A) for name, mean_XM in self.family_XM.items()}

    @staticmethod
    def _at(mean_XM: Float64s, alpha_A: Float64s) -> Float64s:
        if len(mean_XM) == len(alpha_A):
            return weighed(mean_XM, alpha_A)
        best_A: Float64s = weighed(mean_XM[:, None], alpha_A).max(axis=0)
        return best_A


def totals(
    expected_RKM: AnyFloats,
    families: Mapping[str, Sequence[Int64s] | Int64s],
    alpha_A: Float64s,
    cluster_R: Int64s,
    further_RXM: Mapping[str, AnyFloats],
) -> Totals:
    """Return the sums of users' requests.

    Args:
        expected_RKM: the truth of every arm.
        families: the arm of every request, for each policy, [X, R].
        alpha_A: the alphas at which there is an oracle.
        cluster_R: whose each request is, from 0.
        further_RXM: families whose policies are no arms: what they bring in each request.
    """
    by_user = _Sums(cluster_R)
    oracle_AR = np.stack([weighed(expected_RKM, alpha).max(axis=1) for alpha in alpha_A])
    family_CXM = {
        name: np.stack([by_user.of(earned(expected_RKM, arm_R[None])[0]) for arm_R in arm_XR], axis=1)
        for name, arm_XR in families.items()
    }
    family_CXM |= {
        name: np.stack([by_user.of(value_RXM[:, x]) for x in range(value_RXM.shape[1])], axis=1)
        for name, value_RXM in further_RXM.items()
    }
    return Totals(
        requests_C=by_user.of(np.ones((len(cluster_R), 1)))[:, 0],
        family_CXM=family_CXM,
        oracle_CA=by_user.of(oracle_AR.T),
    )


class _Sums:
    """Adds up rows of requests by user."""

    def __init__(self, cluster_R: Int64s) -> None:
        self._order_R = np.argsort(cluster_R, kind="stable")
        self._begin_C = np.searchsorted(cluster_R[self._order_R], np.arange(cluster_R.max() + 1))

    def of(self, value_RX: AnyFloats) -> Float64s:
        """Return the sums, [C, X]."""
        ordered_RX = value_RX[self._order_R].astype(np.float64)
        total_CX: Float64s = np.add.reduceat(ordered_RX, self._begin_C, axis=0)
        return total_CX
