"""Explored requests that a policy did not learn from, and what policies would have earned in them.

Shapes: R requests, K arms, M rewards (2), P policies, B resamples of users.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from unipinrec.arrays import Bools, Float32s, Float64s, Int64s
from unipinrec.data.exploration import ExplorationLog
from unipinrec.evaluation.bootstrap import Estimate, interval
from unipinrec.evaluation.estimators import Estimator
from unipinrec.evaluation.off_policy import Evaluation, ExploredRewards, evaluate
from unipinrec.models.policy.card import Alphas, Group, Interval, PolicyNumbers, RewardNumbers

DIGITS = 6
"""Significant digits of numbers in a card."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """Explored requests, all of them after those that the policy learned from."""

    log: ExplorationLog
    value_RKM: Float32s
    """What the policy's network expects of every arm."""
    cohort_R: Int64s
    """Index into `cohorts`."""
    cohorts: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.log)

    def __getitem__(self, chosen_R: Bools) -> Self:
        """Return some of the requests, in order."""
        return replace(
            self,
            log=self.log[chosen_R],
            value_RKM=self.value_RKM[chosen_R],
            cohort_R=self.cohort_R[chosen_R],
        )

    @property
    def group(self) -> Group:
        """Return how many requests and users there are."""
        return Group(requests=len(self), users=len(set(self.log.user_id_R)))

    def arms_at(self, alpha: float | Float64s) -> Int64s:
        """Return the arm of every request, by one alpha or each request's own, [R]."""
        return best_arms(self.value_RKM, alpha)

    def arms_of(self, alphas: Alphas) -> Int64s:
        """Return the arm of every request, by the alpha of its cohort, [R]."""
        return self.arms_at(np.array([alphas.of(name) for name in self.cohorts])[self.cohort_R])


class Judged:
    """Policies, given by the arm of every request, and the production weights in the same requests."""

    def __init__(self, requests: HeldOut, arm_PR: Sequence[Int64s]) -> None:
        arms = requests.log.info.arms
        production_R = np.full(len(requests), arms.production_arm)
        weight_K2 = arms.weights()[:, list(arms.columns)]
        self._weight_P2 = np.array([weight_K2[arm_R].mean(axis=0) for arm_R in arm_PR])
        self._rewards = [
            evaluate(
                ExploredRewards.of(requests.log, reward, requests.value_RKM[:, :, reward]),
                [*arm_PR, production_R],
            )
            for reward in range(2)
        ]

    def lifts(self) -> Float64s:
        """Return both rewards over those of the production weights, less 1, [P, 2]."""
        return _over_last([evaluation.values(Estimator.SNDR) for evaluation in self._rewards])

    def resampled_lifts(self) -> Float64s:
        """Return the lifts in resamples of users, [B, P, 2]."""
        return _over_last([evaluation.resampled(Estimator.SNDR) for evaluation in self._rewards])

    def numbers(self) -> Iterator[PolicyNumbers]:
        """Yield what a card says of each policy."""
        first_P, second_P = (_reward_numbers(evaluation) for evaluation in self._rewards)
        hits = self._rewards[0]
        for place, weights in enumerate(self._weight_P2):
            yield PolicyNumbers(
                first=first_P[place],
                second=second_P[place],
                hits=int(hits.hits_P[place]),
                effective_requests=rounded(hits.effective_P[place]),
                weights=pair(weights),
            )


def best_arms(value_RKM: Float32s, alpha: float | Float64s) -> Int64s:
    """Return the arm of every request, by one alpha or each request's own, [R]; of equally good ones the
    lowest."""
    second_R1 = np.broadcast_to(np.asarray(alpha, np.float32), len(value_RKM))[:, None]
    value_RK = second_R1 * value_RKM[:, :, 1] + (1 - second_R1) * value_RKM[:, :, 0]
    return value_RK.argmax(axis=1)


def rounded(value: float) -> float:
    """Return a number with as many digits as a card has."""
    return float(f"{value:.{DIGITS}g}")


def pair(value_2: Float64s) -> tuple[float, float]:
    """Return two numbers of a card."""
    first, second = value_2
    return rounded(first), rounded(second)


def in_card(estimate: Estimate) -> Interval:
    """Return an estimate as a card has it."""
    return Interval(value=rounded(estimate.mean), low=rounded(estimate.low), high=rounded(estimate.high))


def estimated(value: float, value_B: Float64s) -> Interval:
    """Return a number with the interval of its resamples."""
    return in_card(Estimate(value, *interval(value_B)))


def _over_last(rewards: Sequence[Float64s]) -> Float64s:
    """Return rewards [..., P + 1] over those of the last policy, less 1, [..., P, M]."""
    value_XM = np.stack(rewards, axis=-1)
    lift_XM: Float64s = value_XM[..., :-1, :] / value_XM[..., -1:, :] - 1.0
    return lift_XM


def _reward_numbers(evaluation: Evaluation) -> list[RewardNumbers]:
    production = len(evaluation.hits_P) - 1
    return [
        RewardNumbers(estimate=in_card(estimate), hit=in_card(hit), lift=in_card(lift))
        for estimate, hit, lift in zip(
            evaluation.estimates(Estimator.SNDR),
            evaluation.estimates(Estimator.SNIPS),
            evaluation.lifts(Estimator.SNDR, over=production),
            strict=True,
        )
    ]
