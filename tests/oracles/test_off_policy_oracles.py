"""Our estimators against sb-obp and vw-estimators on the same arrays, where `make oracles` has them."""

from typing import Any

import numpy as np
import pytest

from tests.support.judged_logs import GOLDEN, GOLDEN_LOG, explored_log, judged_policies
from unipinrec.evaluation.estimators import Estimator
from unipinrec.evaluation.off_policy import ExploredRewards, Policy, evaluate

ope = pytest.importorskip("obp.ope", reason="`make test-oracles` has obp")
ips = pytest.importorskip("estimators.bandits.ips", reason="`make test-oracles` has vw-estimators")
snips = pytest.importorskip("estimators.bandits.snips", reason="`make test-oracles` has vw-estimators")

TOLERANCE = 1e-9
THEIRS = {
    Estimator.IPS: ope.InverseProbabilityWeighting,
    Estimator.SNIPS: ope.SelfNormalizedInverseProbabilityWeighting,
    Estimator.DM: ope.DirectMethod,
    Estimator.DR: ope.DoublyRobust,
    Estimator.SNDR: ope.SelfNormalizedDoublyRobust,
}
LOGS = [
    # Uniform as PRL-PUTS explores; then propensities of all sizes; then one reward in a few thousand weights.
    {"seed": 1, "requests": 4_000, "arms": 50, "sharpness": 0.0},
    {"seed": 2, "requests": 3_000, "arms": 10, "sharpness": 1.0},
    {"seed": 3, "requests": 500, "arms": 3, "sharpness": 2.0},
    {"seed": 4, "requests": 20_000, "arms": 50, "sharpness": 1.5},
]


def by_obp(estimator: Any, log: ExploredRewards, policy: Policy, arms: int) -> float:
    chance_RK = np.eye(arms)[policy] if policy.ndim == 1 else policy
    assert log.value_RK is not None
    return estimator.estimate_policy_value(
        reward=log.reward_R,
        action=log.arm_R,
        pscore=log.propensity_R,
        position=np.zeros(len(log.arm_R), np.int64),
        action_dist=chance_RK[:, :, None],
        estimated_rewards_by_reg_model=log.value_RK[:, :, None],
    )


@pytest.mark.parametrize("setting", LOGS, ids=lambda setting: f"{setting['requests']}x{setting['arms']}")
@pytest.mark.parametrize("estimator", Estimator)
def test_estimates_are_those_of_obp(setting: dict[str, Any], estimator: Estimator) -> None:
    log, arms = explored_log(**setting), setting["arms"]
    policies = judged_policies(setting["seed"], log, arms)

    ours = evaluate(log, list(policies.values())).values(estimator)

    theirs = [by_obp(THEIRS[estimator](), log, policy, arms) for policy in policies.values()]
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("estimator", [Estimator.IPS, Estimator.DR])
def test_clipped_estimates_are_those_of_obp(estimator: Estimator) -> None:
    log = explored_log(2, requests=3_000, arms=10, sharpness=1.0)
    policy = judged_policies(2, log, 10)["stochastic"]

    evaluation = evaluate(log, [policy], clip=2.0)

    assert 0.05 < evaluation.clipped_P[0] < 0.5
    theirs = by_obp(THEIRS[estimator](lambda_=2.0), log, policy, 10)
    assert evaluation.values(estimator)[0] == pytest.approx(theirs, abs=TOLERANCE)


@pytest.mark.parametrize("setting", LOGS, ids=lambda setting: f"{setting['requests']}x{setting['arms']}")
@pytest.mark.parametrize(("estimator", "theirs"), [(Estimator.IPS, ips), (Estimator.SNIPS, snips)])
def test_weighted_estimates_are_those_of_vowpal_wabbit(
    setting: dict[str, Any], estimator: Estimator, theirs: Any
) -> None:
    log, arms = explored_log(**setting), setting["arms"]

    for policy in judged_policies(setting["seed"], log, arms).values():
        chance_RK = np.eye(arms)[policy] if policy.ndim == 1 else policy
        oracle = theirs.Estimator()
        for arm, propensity, reward, chance_K in zip(
            log.arm_R, log.propensity_R, log.reward_R, chance_RK, strict=True
        ):
            oracle.add_example(propensity, reward, chance_K[arm])
        assert evaluate(log, [policy]).values(estimator)[0] == pytest.approx(oracle.get(), abs=TOLERANCE)


def test_the_golden_values_of_the_unit_tests_are_those_of_obp() -> None:
    log, arms = explored_log(**GOLDEN_LOG), GOLDEN_LOG["arms"]
    policies = judged_policies(GOLDEN_LOG["seed"], log, arms)

    for name, values in GOLDEN.items():
        for estimator in Estimator:
            theirs = by_obp(THEIRS[estimator](), log, policies[name], arms)
            assert values[estimator] == pytest.approx(theirs, abs=1e-12)
