"""What one policy would have earned in a log, beside production: every estimator, and what supports it.

Shapes: R explored requests, K arms, M rewards.
"""

import numpy as np

from unipinrec.arrays import AnyFloats
from unipinrec.config import Config
from unipinrec.data.exploration import ExplorationLog
from unipinrec.evaluation.bootstrap import Estimate
from unipinrec.evaluation.estimators import Estimator
from unipinrec.evaluation.off_policy import Evaluation, ExploredRewards, Policy, evaluate

POLICY, PRODUCTION = 0, 1


class Support(Config):
    """What stands behind estimates of one policy."""

    hits: int
    """Requests whose logged arm the policy would have chosen, or might have."""
    effective_requests: float
    mean_weight: float
    """About 1 where propensities are right and weights not clipped."""
    clipped: float
    """Share of the hits whose weight was cut down."""


class Comparison(Config):
    """Mean rewards by one estimator, with 95 % intervals over users."""

    policy: Estimate
    production: Estimate
    difference: Estimate
    """Policy less production, paired by user."""
    lift: Estimate
    """The difference as a share of production's."""


class PolicyReport(Config):
    """One policy and the production weights in the same explored requests."""

    log: str
    synthetic: bool
    policy: str
    """Where the choices came from."""
    requests: int
    users: int
    clip: float | None
    """Above which weights were cut down."""
    support: Support
    production_support: Support
    rewards: dict[str, dict[Estimator, Comparison]]

    @classmethod
    def of(
        cls,
        log: ExplorationLog,
        policy: Policy,
        name: str,
        *,
        value_RKM: AnyFloats | None = None,
        clip: float | None = None,
    ) -> "PolicyReport":
        """Return the report of a policy on a log of explored requests only. Without `clip` no weight is cut.

        Raises `ValueError` as `off_policy.evaluate`.
        """
        production_R = np.full(len(log), log.info.arms.production_arm)
        rewards = {}
        for number, reward in enumerate(log.info.rewards):
            value_RK = None if value_RKM is None else value_RKM[:, :, number]
            evaluation = evaluate(
                ExploredRewards.of(log, number, value_RK),
                [policy, production_R],
                clip=np.inf if clip is None else clip,
            )
            rewards[reward] = {each: _compare(evaluation, each) for each in evaluation.estimators}
        return cls(
            log=log.info.name,
            synthetic=log.info.synthetic,
            policy=name,
            requests=len(log),
            users=len(evaluation.requests_C),
            clip=clip,
            support=_support(evaluation, POLICY),
            production_support=_support(evaluation, PRODUCTION),
            rewards=rewards,
        )


def _compare(evaluation: Evaluation, estimator: Estimator) -> Comparison:
    policy, production = evaluation.estimates(estimator)
    return Comparison(
        policy=policy,
        production=production,
        difference=evaluation.differences(estimator, PRODUCTION)[POLICY],
        lift=evaluation.lifts(estimator, PRODUCTION)[POLICY],
    )


def _support(evaluation: Evaluation, policy: int) -> Support:
    return Support(
        hits=int(evaluation.hits_P[policy]),
        effective_requests=float(evaluation.effective_P[policy]),
        mean_weight=float(evaluation.mean_weight_P[policy]),
        clipped=float(evaluation.clipped_P[policy]),
    )
