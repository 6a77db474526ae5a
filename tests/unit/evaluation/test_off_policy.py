"""Off-policy estimates: known answers, intervals over users, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest

from tests.support.judged_logs import GOLDEN, GOLDEN_LOG, explored_log, judged_policies
from unipinrec.arrays import Float64s, Int64s
from unipinrec.evaluation.bootstrap import RESAMPLES, estimate
from unipinrec.evaluation.estimators import Estimator
from unipinrec.evaluation.off_policy import ExploredRewards, NoSupportError, evaluate

# Four requests of two users, two arms: small enough to work out by hand.
BY_HAND = ExploredRewards(
    arm_R=np.array([0, 1, 1, 0]),
    propensity_R=np.array([0.5, 0.5, 0.25, 0.75]),
    reward_R=np.array([1.0, 0.0, 1.0, 0.0]),
    cluster_R=np.array([7, 7, 3, 3]),
    value_RK=np.array([[0.5, 0.25], [0.5, 0.25], [0.5, 0.75], [0.5, 0.75]]),
)
SECOND_ARM = np.array([1, 1, 1, 1])
MIXED = np.array([[0.5, 0.5], [1.0, 0.0], [0.25, 0.75], [0.75, 0.25]])


def logged(requests: int, users: int, arms: int, seed: int = 0) -> tuple[ExploredRewards, Float64s]:
    """A uniform log whose rewards differ by user and arm, a model of them, and the true chances."""
    random = np.random.default_rng(seed)
    cluster_R = random.integers(users, size=requests)
    chance_RK = random.beta(1, 1, users)[cluster_R, None] * np.linspace(0.2, 1.0, arms)
    arm_R = random.integers(arms, size=requests)
    reward_R = (random.random(requests) < chance_RK[np.arange(requests), arm_R]).astype(np.float64)
    log = ExploredRewards(
        arm_R=arm_R,
        propensity_R=np.full(requests, 1 / arms),
        reward_R=reward_R,
        cluster_R=cluster_R,
        value_RK=chance_RK * 0.8 + 0.1,
    )
    return log, chance_RK


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        # Weights 0, 2, 4, 0: rewarded 4, expected .25 + .25 + .75 + .75, residuals 2 x -.25 + 4 x .25.
        (SECOND_ARM, {"ips": 4 / 4, "snips": 4 / 6, "dm": 2 / 4, "dr": 2.5 / 4, "sndr": 2 / 4 + 0.5 / 6}),
        # Weights 1, 0, 3, 1: rewarded 1 + 3, expected .375 + .5 + .6875 + .5625, residuals .5 + .75 - .5.
        (
            MIXED,
            {"ips": 4 / 4, "snips": 4 / 5, "dm": 2.125 / 4, "dr": 2.875 / 4, "sndr": 2.125 / 4 + 0.75 / 5},
        ),
    ],
)
def test_estimates_are_those_worked_out_by_hand(
    policy: Int64s | Float64s, expected: dict[str, float]
) -> None:
    evaluation = evaluate(BY_HAND, [policy])

    for name, value in expected.items():
        assert evaluation.values(Estimator(name))[0] == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize("name", GOLDEN)
@pytest.mark.parametrize("estimator", Estimator)
def test_estimates_are_those_of_sb_obp(name: str, estimator: Estimator) -> None:
    log = explored_log(**GOLDEN_LOG)
    policy = judged_policies(GOLDEN_LOG["seed"], log, GOLDEN_LOG["arms"])[name]

    assert evaluate(log, [policy]).values(estimator)[0] == pytest.approx(GOLDEN[name][estimator], abs=1e-12)


def test_support_is_counted_in_hits_and_equally_weighted_requests() -> None:
    evaluation = evaluate(BY_HAND, [SECOND_ARM, MIXED])

    assert evaluation.hits_P.tolist() == [2, 3]
    assert evaluation.effective_P == pytest.approx([6**2 / (4 + 16), 5**2 / (1 + 9 + 1)])
    assert evaluation.mean_weight_P == pytest.approx([6 / 4, 5 / 4])
    assert evaluation.clipped_P.tolist() == [0.0, 0.0]


def test_clipping_cuts_weights_down_and_tells_the_share_of_hits() -> None:
    evaluation = evaluate(BY_HAND, [SECOND_ARM], clip=3.0)

    assert evaluation.clipped_P.tolist() == [0.5]
    assert evaluation.values(Estimator.IPS)[0] == pytest.approx(3 / 4)
    assert evaluation.values(Estimator.DR)[0] == pytest.approx((2 + 2 * -0.25 + 3 * 0.25) / 4)
    assert evaluation.effective_P[0] == pytest.approx(5**2 / (4 + 9))


def test_snips_of_a_deterministic_policy_on_a_uniform_log_is_the_mean_reward_of_its_hits() -> None:
    log, chance_RK = logged(3_000, 300, 8)
    policy = chance_RK.argmin(axis=1)
    hit = policy == log.arm_R

    evaluation = evaluate(log, [policy])

    assert evaluation.hits_P[0] == hit.sum()
    assert evaluation.effective_P[0] == pytest.approx(hit.sum())
    of_hits = estimate(log.reward_R[hit], cluster_X=log.cluster_R[hit])
    ours = evaluation.estimates(Estimator.SNIPS)[0]
    assert ours.mean == pytest.approx(of_hits.mean, abs=1e-12)
    # Users without a hit are resampled here too, which changes what is drawn and little else.
    assert ours.high - ours.low == pytest.approx(of_hits.high - of_hits.low, rel=0.15)


def test_chances_of_one_arm_are_that_arm() -> None:
    log, _ = logged(500, 50, 5)
    policy = np.random.default_rng(1).integers(5, size=500)

    evaluation = evaluate(log, [policy, np.eye(5)[policy]])

    for estimator in Estimator:
        chosen, by_chance = evaluation.values(estimator)
        assert chosen == pytest.approx(by_chance, abs=1e-12)
        assert evaluation.resampled(estimator)[:, 0] == pytest.approx(evaluation.resampled(estimator)[:, 1])


def test_doubly_robust_with_a_perfect_model_has_the_models_value_only_in_the_mean() -> None:
    """With rewards that equal their expectation nothing is left to correct."""
    log, chance_RK = logged(500, 50, 5)
    exact = replace(log, reward_R=chance_RK[np.arange(500), log.arm_R], value_RK=chance_RK)

    evaluation = evaluate(exact, [np.full(500, 3)])

    truth = chance_RK[:, 3].mean()
    for estimator in (Estimator.DM, Estimator.DR, Estimator.SNDR):
        assert evaluation.values(estimator)[0] == pytest.approx(truth, abs=1e-12)
    assert abs(evaluation.values(Estimator.SNIPS)[0] - truth) > 1e-3


def test_doubly_robust_forgives_a_model_that_is_off_everywhere() -> None:
    log, chance_RK = logged(200_000, 20_000, 5)
    biased = replace(log, value_RK=chance_RK * 0.5 + 0.3)

    evaluation = evaluate(biased, [np.full(200_000, 2)])

    truth = chance_RK[:, 2].mean()
    assert abs(evaluation.values(Estimator.DM)[0] - truth) > 0.1
    for estimator in (Estimator.DR, Estimator.SNDR):
        assert evaluation.values(estimator)[0] == pytest.approx(truth, abs=0.01)
        assert evaluation.estimates(estimator)[0].low < truth < evaluation.estimates(estimator)[0].high


@pytest.mark.parametrize("estimator", Estimator)
def test_intervals_resample_users_and_divide_afterwards(estimator: Estimator) -> None:
    """Against a bootstrap that draws rows user by user and evaluates each resample from its rows."""
    log, chance_RK = logged(400, 40, 4, seed=3)
    policy = chance_RK.argmax(axis=1)
    users = [np.flatnonzero(log.cluster_R == user) for user in np.unique(log.cluster_R)]
    random = np.random.default_rng(5)
    statistics = []
    for _ in range(2_000):
        rows = np.concatenate([users[user] for user in random.integers(len(users), size=len(users))])
        drawn = ExploredRewards(
            arm_R=log.arm_R[rows],
            propensity_R=log.propensity_R[rows],
            reward_R=log.reward_R[rows],
            cluster_R=log.cluster_R[rows],
            value_RK=None if log.value_RK is None else log.value_RK[rows],
        )
        statistics.append(evaluate(drawn, [policy[rows]]).values(estimator)[0])
    low, high = np.percentile(statistics, [2.5, 97.5])

    found = evaluate(log, [policy]).estimates(estimator)[0]

    assert (found.low, found.high) == pytest.approx((low, high), abs=0.15 * (high - low))


def test_rows_of_one_user_widen_the_interval() -> None:
    log, _ = logged(4_000, 40, 4)
    alone = replace(log, cluster_R=np.arange(4_000))
    policy = [np.full(4_000, 2)]

    together, apart = (evaluate(it, policy).estimates(Estimator.SNIPS)[0] for it in (log, alone))

    assert together.mean == apart.mean
    assert together.high - together.low > 1.5 * (apart.high - apart.low)


def test_a_difference_is_paired_and_none_to_oneself() -> None:
    log, chance_RK = logged(4_000, 400, 4)
    nearly_same = np.where(np.arange(4_000) % 10 == 0, 3, 2)
    policies = [np.full(4_000, 2), nearly_same]

    evaluation = evaluate(log, policies)

    for estimator in Estimator:
        to_itself, other = evaluation.differences(estimator, over=0)
        assert (to_itself.mean, to_itself.low, to_itself.high) == (0.0, 0.0, 0.0)
        first, second = evaluation.estimates(estimator)
        assert other.mean == pytest.approx(second.mean - first.mean, abs=1e-12)
        assert other.high - other.low < 0.7 * (second.high - second.low)
        lift = evaluation.lifts(estimator, over=0)[1]
        assert lift.mean == pytest.approx(second.mean / first.mean - 1, abs=1e-12)
        by_resample = evaluation.resampled(estimator)
        assert by_resample.shape == (RESAMPLES, 2)
        assert (lift.low, lift.high) == pytest.approx(
            tuple(np.percentile(by_resample[:, 1] / by_resample[:, 0] - 1, [2.5, 97.5]))
        )
    assert evaluation.differences(Estimator.DM, over=0)[1].mean == pytest.approx(
        0.8 * (chance_RK[:, 3] - chance_RK[:, 2])[::10].sum() / 4_000
    )


def test_without_a_model_only_weights_estimate() -> None:
    evaluation = evaluate(replace(BY_HAND, value_RK=None), [SECOND_ARM])

    assert evaluation.estimators == (Estimator.IPS, Estimator.SNIPS)
    with pytest.raises(ValueError, match="estimator is dr, without a model's values; allowed: ips, snips"):
        evaluation.values(Estimator.DR)


@pytest.mark.parametrize("propensity", [0.0, np.nan, -0.5, 1.5])
def test_a_propensity_that_is_no_chance_is_refused(propensity: float) -> None:
    with pytest.raises(
        NoSupportError, match=rf"propensity of request 2 \(arm 1\) is {propensity}.* 1 of 4; allowed: above 0"
    ):
        replace(BY_HAND, propensity_R=np.array([0.5, 0.5, propensity, 0.75]))


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (
            np.array([0, 2, 2, 0]),
            "arm 2 is wanted in 2 of 4 requests and logged in 0; allowed: the 3 arms that were logged, "
            "0 to 1, 3",
        ),
        (
            np.array([[0.5, 0.5, 0, 0], [0.5, 0.5, 0, 0], [0.5, 0, 0.5, 0], [0.5, 0, 0, 0.5]]),
            "arm 2 is wanted in 0.5 of 4 requests and logged in 0",
        ),
        (
            np.array([1, 0, 0, 0]),
            "hits is 0: of 4 requests, none has a logged arm that the policy wants (most often arm 0: "
            "wanted in 3, logged in 1); allowed: 1 or more",
        ),
    ],
)
def test_missing_support_is_refused(policy: Int64s | Float64s, message: str) -> None:
    log = replace(BY_HAND, arm_R=np.array([0, 1, 1, 3]), value_RK=None)

    with pytest.raises(NoSupportError) as refused:
        evaluate(log, [np.array([0, 1, 1, 3]), policy])

    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (np.array([1, 1, 1]), r"shape of policy is \(3,\); allowed: \(4,\)"),
        (np.array([0, -1, 0, 0]), "arm of the policy is -1; allowed: 0 or more"),
        (np.array([0, 2, 0, 0]), "arm of the policy is 2; allowed: 0 to 1"),
        (np.full((4, 3), 1 / 3), r"shape of policy is \(4, 3\); allowed: \(4, 2\)"),
        (np.full((4, 2), 0.4), "chances of request 0 sum up to 0.8, .* allowed: a sum of 1"),
        (np.tile([1.5, -0.5], (4, 1)), "the smallest is -0.5; allowed: a sum of 1, none below 0"),
    ],
)
def test_a_policy_that_does_not_fit_the_log_is_refused(policy: Int64s | Float64s, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(BY_HAND, [policy])
