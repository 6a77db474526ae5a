"""Small exploration logs, the same from a seed everywhere, and policies that a log can judge."""

from typing import Any

import numpy as np

from unipinrec.arrays import Float64s
from unipinrec.evaluation.off_policy import ExploredRewards, Policy

GOLDEN_LOG: dict[str, Any] = {"seed": 11, "requests": 200, "arms": 6, "sharpness": 0.8}
GOLDEN = {
    "deterministic": {
        "ips": 0.15025358135644523,
        "snips": 0.19238678717567803,
        "dm": 0.4351312795870112,
        "dr": 0.30632208015416656,
        "sndr": 0.2702021789703146,
    },
    "stochastic": {
        "ips": 0.37048376649247766,
        "snips": 0.3343389695491318,
        "dm": 0.42099623625112903,
        "dr": 0.3496693577061742,
        "sndr": 0.35662808511822247,
    },
}
"""Of two policies on that log, by sb-obp 0.5.10: tests/oracles computes them again."""


def chances(random: np.random.Generator, requests: int, arms: int, sharpness: float) -> Float64s:
    """The larger `sharpness`, the more one arm is preferred; 0 is uniform."""
    preference_RK = np.exp(sharpness * random.normal(size=(requests, arms)))
    return preference_RK / preference_RK.sum(axis=1, keepdims=True)


def explored_log(seed: int, *, requests: int, arms: int, sharpness: float) -> ExploredRewards:
    """Rewards of yes or no, propensities of any size unless `sharpness` is 0, and a model that is off."""
    random = np.random.default_rng(seed)
    drawn_RK = chances(random, requests, arms, sharpness)
    arm_R = (drawn_RK.cumsum(axis=1) > random.random((requests, 1))).argmax(axis=1)
    true_RK = random.beta(0.6, 1.2, (requests, arms))
    rows = np.arange(requests)
    return ExploredRewards(
        arm_R=arm_R,
        propensity_R=drawn_RK[rows, arm_R],
        reward_R=(random.random(requests) < true_RK[rows, arm_R]).astype(np.float64),
        cluster_R=random.integers(max(requests // 5, 1), size=requests),
        value_RK=np.clip(true_RK + random.normal(0.1, 0.2, true_RK.shape), 0, 1),
    )


def judged_policies(seed: int, log: ExploredRewards, arms: int) -> dict[str, Policy]:
    """A policy of every kind."""
    random = np.random.default_rng([seed, 1])
    requests = len(log.arm_R)
    return {
        "uniform": np.full((requests, arms), 1 / arms),
        "stochastic": chances(random, requests, arms, 1.0),
        "deterministic": random.integers(arms, size=requests),
        "static": np.full(requests, arms // 2),
    }
