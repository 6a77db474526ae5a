"""Off-policy evaluation: many policies on one log, with intervals over its users and what supports them.

Shapes: R requests, K arms, P policies, C clusters of requests (users), B resamples, S sums.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np

from unipinrec.arrays import AnyFloats, Float64s, Int64s
from unipinrec.data.exploration import ExplorationLog
from unipinrec.evaluation.bootstrap import Estimate, interval, resampled_counts
from unipinrec.evaluation.checks import check_at_least, check_indices, check_numbers, check_shape
from unipinrec.evaluation.estimators import WITHOUT_MODEL, Estimator, Sums, chance_of, expected_under

CHANCE_TOLERANCE = 1e-6
"""By which a policy's chances in one request may miss a sum of 1."""

Policy = Int64s | Float64s
"""The arm of each request [R], or the chance of each arm in each request [R, K]."""


class NoSupportError(ValueError):
    """The log cannot say what was asked; the message names the arm and how often it is wanted and logged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExploredRewards:
    """One reward of the explored requests of a log."""

    arm_R: Int64s
    propensity_R: Float64s
    """Chance with which the logged arm was drawn."""
    reward_R: Float64s
    cluster_R: Int64s
    """Whose each request is: intervals are over these."""
    value_RK: AnyFloats | None = None
    """What a model expects of every arm, for DM, DR and SNDR. It has not learned from these requests."""

    def __post_init__(self) -> None:
        check_at_least("requests", len(self.arm_R), 1)
        for name in ("propensity_R", "reward_R", "cluster_R"):
            check_shape(name, getattr(self, name), self.arm_R.shape)
        check_numbers("reward", self.reward_R)
        wrong_R = ~((self.propensity_R > 0) & (self.propensity_R <= 1))
        if wrong_R.any():
            row = int(wrong_R.argmax())
            raise NoSupportError(
                f"propensity of request {row} (arm {self.arm_R[row]}) is {self.propensity_R[row]}, as are "
                f"{wrong_R.sum()} of {len(wrong_R)}; allowed: above 0, at most 1"
            )
        if self.value_RK is not None:
            check_shape("values", self.value_RK, (len(self.arm_R), self.value_RK.shape[-1]))
            check_numbers("values", self.value_RK)
            check_indices("logged arm", self.arm_R, self.value_RK.shape[1])

    @classmethod
    def of(cls, log: ExplorationLog, reward: int, value_RK: AnyFloats | None = None) -> Self:
        """Return reward 0 or 1 of the explored requests of a log. `value_RK` is of all its requests."""
        chosen = log[log.explored_R]
        return cls(
            arm_R=chosen.arm_R,
            propensity_R=chosen.propensity_R,
            reward_R=chosen.reward_RM[:, reward],
            cluster_R=np.unique(chosen.user_id_R, return_inverse=True)[1].astype(np.int64),
            value_RK=None if value_RK is None else value_RK[log.explored_R],
        )


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Policies on the same requests. Estimates, differences and resamples are by policy, in the order given.

    All are resampled by the same users, so that differences are paired, and two rewards of one log can be put
    together resample by resample.
    """

    requests_C: Float64s
    sums_CPS: Float64s
    """Of every user and policy: w, w r, q, w (r - q(a))."""
    has_model: bool
    hits_P: Int64s
    """Requests with a weight: those whose logged arm the policy would have chosen, or might have."""
    effective_P: Float64s
    """Effective sample size (sum of w)^2 / sum of w^2 (Kish 1965): how many equally weighted requests would
    say as much."""
    mean_weight_P: Float64s
    """About 1 where propensities are right and weights not clipped."""
    clipped_P: Float64s
    """Share of the hits whose weight was cut down."""

    @property
    def estimators(self) -> tuple[Estimator, ...]:
        """Return those that the log allows: without a model's values IPS and SNIPS."""
        return tuple(Estimator) if self.has_model else WITHOUT_MODEL

    def values(self, estimator: Estimator) -> Float64s:
        """Return the mean reward of every policy, [P]. Raises `ValueError` if it needs a model's values."""
        self._check(estimator)
        return _sums(self.requests_C.sum(), self.sums_CPS.sum(axis=0)).value(estimator)

    def resampled(self, estimator: Estimator) -> Float64s:
        """Return the mean reward of every policy in every resample of the users, [B, P]."""
        self._check(estimator)
        return self._resampled_sums.value(estimator)

    def estimates(self, estimator: Estimator) -> list[Estimate]:
        """Return the mean reward of every policy with its 95 % interval."""
        return _estimates(self.values(estimator), self.resampled(estimator))

    def differences(self, estimator: Estimator, over: int) -> list[Estimate]:
        """Return by how much every policy's mean reward is above that of policy `over`, paired by user."""
        value_P, value_BP = self.values(estimator), self.resampled(estimator)
        over_B1: Float64s = value_BP[:, [over]]
        return _estimates(value_P - value_P[over], value_BP - over_B1)

    def lifts(self, estimator: Estimator, over: int) -> list[Estimate]:
        """Return the differences as shares of the mean reward of policy `over`, paired by user."""
        value_P, value_BP = self.values(estimator), self.resampled(estimator)
        over_B1: Float64s = value_BP[:, [over]]
        with np.errstate(invalid="ignore", divide="ignore"):
            return _estimates(value_P / value_P[over] - 1, value_BP / over_B1 - 1)

    def _check(self, estimator: Estimator) -> None:
        if estimator not in self.estimators:
            raise ValueError(
                f"estimator is {estimator}, without a model's values; allowed: {', '.join(self.estimators)}"
            )

    @cached_property
    def _resampled_sums(self) -> Sums:
        clusters, policies, sums = self.sums_CPS.shape
        numbers_CX = np.column_stack([self.requests_C, self.sums_CPS.reshape(clusters, -1)])
        resampled_BX = np.concatenate(
            [count_BC @ numbers_CX for count_BC in resampled_counts(clusters, numbers_CX.shape[1])]
        )
        return _sums(resampled_BX[:, :1], resampled_BX[:, 1:].reshape(-1, policies, sums))


def evaluate(log: ExploredRewards, policies: Sequence[Policy], *, clip: float = np.inf) -> Evaluation:
    """Return what each policy would have earned in the logged requests.

    A weight above `clip` counts as `clip`, which trades variance for bias (Ionides 2008).

    Raises `NoSupportError` where an arm that a policy wants was never logged, or no logged arm is wanted;
    `ValueError` where shapes differ, chances do not sum up to 1, or `clip` is not above 0.
    """
    check_at_least("policies", len(policies), 1)
    if not clip > 0:
        raise ValueError(f"clip is {clip}; allowed: above 0")
    cluster_R = np.unique(log.cluster_R, return_inverse=True)[1]
    clusters = int(cluster_R.max()) + 1
    sums_CPS = np.zeros((clusters, len(policies), 4))
    hits, effective, mean_weight, clipped = [], [], [], []
    for number, policy in enumerate(policies):
        _check_policy(log, policy)
        weight_R = chance_of(policy, log.arm_R) / log.propensity_R
        _check_support(log, policy, weight_R)
        hit_R = weight_R > 0
        clipped.append((weight_R > clip).sum() / hit_R.sum())
        weight_R = np.minimum(weight_R, clip)
        for place, term_R in enumerate(_terms(log, policy, weight_R)):
            sums_CPS[:, number, place] = np.bincount(cluster_R, term_R, clusters)
        hits.append(hit_R.sum())
        effective.append(weight_R.sum() ** 2 / (weight_R**2).sum())
        mean_weight.append(weight_R.mean())
    return Evaluation(
        requests_C=np.bincount(cluster_R, minlength=clusters).astype(np.float64),
        sums_CPS=sums_CPS,
        has_model=log.value_RK is not None,
        hits_P=np.array(hits, np.int64),
        effective_P=np.array(effective),
        mean_weight_P=np.array(mean_weight),
        clipped_P=np.array(clipped),
    )


def _terms(log: ExploredRewards, policy: Policy, weight_R: Float64s) -> list[Float64s]:
    terms = [weight_R, weight_R * log.reward_R]
    if log.value_RK is not None:
        residual_R = log.reward_R - expected_under(log.arm_R, log.value_RK)
        terms += [expected_under(policy, log.value_RK), weight_R * residual_R]
    return terms


def _sums(requests: Float64s, sums_S: Float64s) -> Sums:
    return Sums(requests, *np.moveaxis(sums_S, -1, 0))


def _estimates(value_P: AnyFloats, value_BP: AnyFloats) -> list[Estimate]:
    return [
        Estimate(float(value), *interval(value_B)) for value, value_B in zip(value_P, value_BP.T, strict=True)
    ]


def _check_support(log: ExploredRewards, policy: Policy, weight_R: Float64s) -> None:
    wanted_K = np.bincount(policy) if policy.ndim == 1 else policy.sum(axis=0)
    arms = max(len(wanted_K), int(log.arm_R.max()) + 1)
    wanted_K = np.pad(wanted_K, (0, arms - len(wanted_K)))
    logged_K = np.bincount(log.arm_R, minlength=arms)
    missing_K = (wanted_K > 0) & (logged_K == 0)
    if missing_K.any():
        arm = int(missing_K.argmax())
        raise NoSupportError(
            f"arm {arm} is wanted in {wanted_K[arm]:.6g} of {len(log.arm_R)} requests and logged in 0; "
            f"allowed: the {(logged_K > 0).sum()} arms that were logged, {_ranges(np.flatnonzero(logged_K))}"
        )
    if not (weight_R > 0).any():
        arm = int(wanted_K.argmax())
        raise NoSupportError(
            f"hits is 0: of {len(log.arm_R)} requests, none has a logged arm that the policy wants (most "
            f"often arm {arm}: wanted in {wanted_K[arm]:.6g}, logged in {logged_K[arm]}); allowed: 1 or more"
        )


def _check_policy(log: ExploredRewards, policy: Policy) -> None:
    arms = None if log.value_RK is None else log.value_RK.shape[1]
    if policy.ndim == 1:
        check_shape("policy", policy, log.arm_R.shape)
        check_at_least("arm of the policy", int(policy.min()), 0)
        if arms is not None:
            check_indices("arm of the policy", policy.astype(np.int64), arms)
        return
    check_shape("policy", policy, (len(log.arm_R), arms or max(policy.shape[1], int(log.arm_R.max()) + 1)))
    off_R = ~(np.abs(policy.sum(axis=1) - 1) <= CHANCE_TOLERANCE) | (policy < 0).any(axis=1)
    if off_R.any():
        row = int(off_R.argmax())
        raise ValueError(
            f"chances of request {row} sum up to {policy[row].sum():.6g}, the smallest is "
            f"{policy[row].min():.6g}; allowed: a sum of 1, none below 0"
        )


def _ranges(arms: Int64s) -> str:
    """Return ascending indices as `0 to 6, 8`."""
    runs = np.split(arms, np.flatnonzero(np.diff(arms) > 1) + 1)
    return ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
