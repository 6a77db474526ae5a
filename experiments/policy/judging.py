"""Turns what policies choose in one world into numbers.

Shapes: R requests, K arms, M rewards, A alphas, X policies of a family, B resamples of users.
"""

from collections.abc import Mapping
from functools import cached_property

import numpy as np

from experiments.policy.measures import Means, arms_at, pearson, totals, weighed
from experiments.policy.report import Comparison, Family, OperatingPoint, Pair, Prediction, RequestGroup
from experiments.policy.world import PolicyWorld
from unipinrec.arrays import AnyFloats, Bools, Float32s, Float64s, Int64s
from unipinrec.evaluation.bootstrap import Estimate, interval
from unipinrec.evaluation.estimators import Estimator
from unipinrec.evaluation.off_policy import ExploredRewards, evaluate
from unipinrec.evaluation.pareto import hypervolume
from unipinrec.models.policy.judged import HeldOut, Judged
from unipinrec.models.policy.sweep import ALPHAS, halves, pick

POLICY, STATICS, SAME_WEIGHTS = "policy", "static arms", "static, same mean weights"

BEGUN, FIRST = "with an event in the hour before", "without one: the session's topic is not known"


class Judging:
    """Families of policies in the evaluation requests of a world, all of whose policies are known by the arm
    of every request, but for those of weights off the grid."""

    def __init__(
        self,
        world: PolicyWorld,
        value_RKM: Float32s,
        arm_XR: Mapping[str, Int64s],
        further_RXM: Mapping[str, AnyFloats],
    ) -> None:
        """`value_RKM`: expectations for doubly robust estimates; `further_RXM`: what other weights bring."""
        self._world, self._value_RKM = world, value_RKM
        static_KR = np.arange(len(world.arms))[:, None] + np.zeros_like(world.users)
        self._arm_XR = {**arm_XR, STATICS: static_KR}
        self._totals = totals(world.expected_RKM, self._arm_XR, ALPHAS, world.users, further_RXM)
        self._means = self._totals.means()
        static_KM = self._means.family_XM[STATICS]
        self.production_M = static_KM[world.arms.production_arm]
        self.reference_M = static_KM.min(axis=0)
        oracle_ARM = [
            np.take_along_axis(world.expected_RKM, arm_R[:, None, None], axis=1)[:, 0].mean(axis=0)
            for arm_R in arms_at(world.expected_RKM, ALPHAS)
        ]
        self.oracle_AM = np.array(oracle_ARM, np.float64)

    def families(self, seconds: Mapping[str, float]) -> tuple[Family, ...]:
        """Return the numbers of every family, in the order given, the static arms among the last."""
        area = float(np.prod(self.oracle_AM.max(axis=0) - self.reference_M))
        hypervolumes = self._means.hypervolumes(self.reference_M)
        regrets = self._means.regrets(ALPHAS)
        return tuple(
            Family(
                name=name,
                points=pairs(mean_XM),
                hypervolume=hypervolumes[name] / area,
                beyond_production=hypervolume(mean_XM / self.production_M - 1, np.zeros(2)),
                regret=regrets[name].mean(),
                regret_over_static=regrets[name].mean() / regrets[STATICS].mean(),
                operating_points=self._operating_points(name),
                seconds=seconds.get(name),
            )
            for name, mean_XM in self._means.family_XM.items()
        )

    def comparisons(self) -> tuple[Comparison, ...]:
        """Return the policy against every other family, with intervals over users."""
        area = float(np.prod(self.oracle_AM.max(axis=0) - self.reference_M))

        def found(means: Means) -> dict[str, tuple[float, float]]:
            volumes, regrets = means.hypervolumes(self.reference_M), means.regrets(ALPHAS)
            return {
                name: ((volumes[POLICY] - volume) / area, regrets[POLICY].mean() / regrets[name].mean())
                for name, volume in volumes.items()
                if name != POLICY
            }

        resampled = [found(means) for means in self._totals.resamples()]
        return tuple(
            Comparison(
                other=name,
                hypervolume=Estimate(volume, *interval(np.array([each[name][0] for each in resampled]))),
                regret_ratio=Estimate(ratio, *interval(np.array([each[name][1] for each in resampled]))),
            )
            for name, (volume, ratio) in found(self._means).items()
        )

    def groups(self) -> tuple[RequestGroup, ...]:
        """Return the policy's regret in requests whose session has begun, and in those that begin one."""
        expected_RKM, alphas = self._world.expected_RKM, enumerate(ALPHAS)
        static_A = [int(weighed(self._means.family_XM[STATICS], alpha).argmax()) for alpha in ALPHAS]
        regret_R, static_R = np.zeros(len(expected_RKM)), np.zeros(len(expected_RKM))
        for place, alpha in alphas:
            value_RK = weighed(expected_RKM, alpha)
            best_R, arm_R = value_RK.max(axis=1), self._arm_XR[POLICY][place]
            regret_R += best_R - np.take_along_axis(value_RK, arm_R[:, None], axis=1)[:, 0]
            static_R += best_R - value_RK[:, static_A[place]]
        begun_R = self._world.session_begun()
        return tuple(
            RequestGroup(
                name=name,
                share=float(among_R.mean()),
                regret_over_static=float(regret_R[among_R].sum() / static_R[among_R].sum()),
            )
            for name, among_R in ((BEGUN, begun_R), (FIRST, ~begun_R))
        )

    @cached_property
    def true_lifts(self) -> Float64s:
        """Return the true lifts of the policy's alphas over production."""
        lift_A2: Float64s = self._means.family_XM[POLICY] / self.production_M - 1
        return lift_A2

    @cached_property
    def predicted(self) -> dict[Estimator, Float64s]:
        """Return the lifts of the policy's alphas that estimators find in arms, propensities and rewards."""
        log, production = self._world.evaluation, self._world.arms.production_arm
        policies = [*self._arm_XR[POLICY], np.full(len(log), production)]
        evaluations = [
            evaluate(ExploredRewards.of(log, reward, self._value_RKM[:, :, reward]), policies)
            for reward in range(2)
        ]
        value_EXM = {
            each: np.stack([evaluation.values(each) for evaluation in evaluations], axis=1)
            for each in Estimator
        }
        return {each: value_XM[:-1] / value_XM[-1] - 1 for each, value_XM in value_EXM.items()}

    def predictions(self) -> tuple[Prediction, ...]:
        """Return how well the estimators know the true lifts."""
        return tuple(
            Prediction(
                estimator=each,
                reward=name,
                pearson=pearson(lift_A2[:, reward], self.true_lifts[:, reward]),
                error=float(np.abs(lift_A2[:, reward] - self.true_lifts[:, reward]).mean()),
            )
            for each, lift_A2 in self.predicted.items()
            for reward, name in enumerate(self._world.evaluation.info.rewards)
        )

    @cached_property
    def _choosing(self) -> Bools:
        return halves(self._world.evaluation.user_id_R)

    @cached_property
    def _reported(self) -> Means:
        """Means over the users that no operating point was chosen by."""
        reporting_C = np.zeros(len(self._totals.requests_C))
        reporting_C[self._world.users[~self._choosing]] = 1.0
        return self._totals.means(reporting_C)

    def _operating_points(self, name: str) -> tuple[OperatingPoint, ...]:
        """Return what the product's rule picks from a family, by estimates on one half of the users."""
        if name not in self._arm_XR or len(self._arm_XR[name]) != len(ALPHAS):
            return ()
        chosen_R = self._choosing
        log = self._world.evaluation[chosen_R]
        requests = HeldOut(
            log=log,
            value_RKM=self._value_RKM[chosen_R],
            cohort_R=np.zeros(len(log), np.int64),
            cohorts=("rest",),
        )
        picked = pick(Judged(requests, list(self._arm_XR[name][:, chosen_R])).lifts())
        mean_AM, oracle_A = self._reported.family_XM[name], self._reported.oracle_A
        static_KM = self._reported.family_XM[STATICS]
        lift_AM = mean_AM / static_KM[self._world.arms.production_arm] - 1
        return tuple(
            OperatingPoint(
                name=point,
                alpha=ALPHAS[index],
                lift=pairs(lift_AM)[index],
                regret=oracle_A[index] - weighed(mean_AM[index], ALPHAS[index]),
                static_regret=oracle_A[index] - weighed(static_KM, ALPHAS[index]).max(),
            )
            for point, index in picked.items()
        )


def pairs(value_X2: Float64s) -> tuple[Pair, ...]:
    """Return rows of two numbers as a report has them."""
    return tuple((float(first), float(second)) for first, second in value_X2)
