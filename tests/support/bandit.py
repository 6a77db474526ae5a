"""A world of explored requests that is small enough to know everything: users differ in one number, the two
rewards want opposite things, and every arm's chance of either reward is a formula.

Shapes: R requests, U users, K arms.
"""

from dataclasses import dataclass, replace

import numpy as np

from unipinrec.arrays import Bools, Float64s, Int64s
from unipinrec.data.arms import Arms, WeightRange
from unipinrec.data.exploration import ExplorationInfo, ExplorationLog
from unipinrec.models.policy.judged import HeldOut

ARMS = Arms(
    actions=("save", "share", "hide"),
    production=(100.0, 9.0, 0.0),
    varied=(WeightRange(action="save", low=10, high=200), WeightRange(action="share", low=1, high=30)),
)
COHORTS = ("core", "casual", "rest")


@dataclass(frozen=True, slots=True)
class Bandit:
    """Explored requests and their truth."""

    held_out: HeldOut
    expected_RK2: Float64s

    def __getitem__(self, chosen_R: Bools) -> "Bandit":
        """Return some of the requests."""
        return Bandit(self.held_out[chosen_R], self.expected_RK2[chosen_R])

    def with_rewards(self, reward_RM: Float64s) -> "Bandit":
        """Return the same requests with other rewards."""
        log = replace(self.held_out.log, reward_RM=reward_RM)
        return Bandit(replace(self.held_out, log=log), self.expected_RK2)

    def lift(self, arm_R: Int64s) -> Float64s:
        """Return the true lifts over production of a policy, by the arm of every request, [2]."""
        at = np.arange(len(arm_R))
        chosen_2 = self.expected_RK2[at, arm_R].mean(axis=0)
        lift_2: Float64s = chosen_2 / self.expected_RK2[:, ARMS.production_arm].mean(axis=0) - 1
        return lift_2


def bandit(
    users: int = 2_000, requests_each: int = 25, *, taste: float = 1.5, noise: float = 0.02, seed: int = 0
) -> Bandit:
    """Draw requests of users, in a world where `taste` is how much users differ in what an arm brings them.

    The model of rewards is the truth with `noise`. Cohorts are thirds of the users at random.
    """
    random = np.random.default_rng(seed)
    requests = users * requests_each
    user_R = np.repeat(np.arange(users), requests_each)
    taste_R = random.normal(scale=taste, size=users)[user_R]
    cohort_R = random.integers(len(COHORTS), size=users)[user_R]
    first_K, second_K = ARMS.places().T
    # The best place of each user lies on a line across the grid; beyond the trade-off, fitting it pays.
    miss_RK = first_K - second_K - np.tanh(taste_R)[:, None]
    expected_RK2 = np.stack(
        [
            _chance(0.5 + 1.5 * first_K - 1.5 * second_K - 0.8 * miss_RK**2),
            _chance(0.2 - 1.5 * first_K + 1.5 * second_K - 0.8 * miss_RK**2),
        ],
        axis=2,
    )
    arm_R = random.integers(len(ARMS), size=requests)
    reward_RM = random.random((requests, 2)) < expected_RK2[np.arange(requests), arm_R]
    log = ExplorationLog(
        info=ExplorationInfo(name="bandit", arms=ARMS, synthetic=True),
        request_id_R=np.arange(requests).astype(str).astype(object),
        user_id_R=np.char.add("u", user_R.astype(str)).astype(object),
        timestamp_R=np.arange(requests, dtype=np.int64),
        surface_R=np.zeros(requests, np.int64),
        explored_R=np.ones(requests, bool),
        arm_R=arm_R,
        propensity_R=np.full(requests, 1 / len(ARMS)),
        reward_RM=reward_RM.astype(np.float64),
    )
    value_RK2 = expected_RK2 + random.normal(scale=noise, size=expected_RK2.shape)
    held_out = HeldOut(log=log, value_RKM=value_RK2.astype(np.float32), cohort_R=cohort_R, cohorts=COHORTS)
    return Bandit(held_out, expected_RK2)


def _chance(logit: Float64s) -> Float64s:
    return 1 / (1 + np.exp(-logit))
