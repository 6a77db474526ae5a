"""A handful of requests that explored five arms, one after another."""

import numpy as np

from unipinrec.data.arms import Arms, WeightRange
from unipinrec.data.exploration import ExplorationInfo, ExplorationLog

ARMS = Arms(
    actions=("click", "save"),
    production=(1.0, 0.5),
    varied=(
        WeightRange(action="click", low=0.5, high=2.0, steps=2),
        WeightRange(action="save", low=0.0, high=1.0, steps=2),
    ),
)


def small_log(requests: int) -> ExplorationLog:
    """Request `r<n>`, of one of 20 users, has arm n modulo 5, uniformly, and rewards that differ by arm."""
    number_R = np.arange(requests)
    arm_R = number_R % len(ARMS)
    random_R2 = np.random.default_rng(requests).random((requests, 2))
    return ExplorationLog(
        info=ExplorationInfo(name="small", arms=ARMS, synthetic=True),
        request_id_R=np.array([f"r{number}" for number in number_R], object),
        user_id_R=np.array([f"u{number * 7 % 20}" for number in number_R], object),
        timestamp_R=1_750_000_000 + number_R,
        surface_R=np.zeros(requests, np.int64),
        explored_R=np.ones(requests, bool),
        arm_R=arm_R,
        propensity_R=np.full(requests, 1 / len(ARMS)),
        reward_RM=(random_R2 < np.stack([0.2 + 0.1 * arm_R, 0.8 - 0.1 * arm_R], axis=1)).astype(np.float64),
    )
