"""Explored requests of users of two kinds, whose best weights differ: a problem with a known answer.

Shapes: R requests, K arms, M rewards.
"""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from unipinrec.arrays import Float64s, Int64s
from unipinrec.data.arms import Arms, WeightRange
from unipinrec.data.events import DatasetInfo
from unipinrec.data.exploration import ExplorationInfo, ExplorationLog
from unipinrec.data.interactions import InteractionDataset
from unipinrec.data.prepared import write_prepared
from unipinrec.models.policy.config import CohortRule, PolicyConfig

ACTIONS = ("click", "save", "share")
SURFACES = ("home", "search")
ITEMS = 30
BEGIN, DAY = 1_700_000_000, 86_400
DAYS = 40
ARMS = Arms(
    actions=ACTIONS,
    production=(1.0, 2.0, 3.0),
    varied=(
        WeightRange(action="save", low=0.0, high=4.0, steps=3),
        WeightRange(action="share", low=1.0, high=5.0, steps=3),
    ),
)
COHORTS = (CohortRule(name="core", action="save"), CohortRule(name="casual"))


def explored_dataset(folder: Path, users: int = 40) -> InteractionDataset:
    """Users with an even number click and save, the others click and share; each acts once or more a day."""
    draw = np.random.default_rng(1)
    rows = []
    for user in range(users):
        length = int(draw.integers(1, 60))
        time_N = BEGIN + np.sort(draw.integers(DAYS * DAY, size=length))
        for time in time_N.tolist():
            actions = 1 | (2 << user % 2 if draw.random() < 0.7 else 0)
            rows.append(
                (f"user-{user}", int(draw.integers(ITEMS)), actions, int(draw.integers(2)), time, None)
            )
    info = DatasetInfo(
        name="explored",
        actions=ACTIONS,
        surfaces=SURFACES,
        sampled_impressions=True,
        utility_weights=ARMS.production,
    )
    schema = {
        "user_id": pl.String,
        "item_id": pl.Int64,
        "actions": pl.Int64,
        "surface": pl.Int32,
        "timestamp": pl.Int64,
        "feedview_id": pl.Int64,
    }
    events = pl.DataFrame(rows, schema, orient="row")
    write_prepared(folder, events, pl.DataFrame({"item_id": range(ITEMS)}), info)
    return InteractionDataset.load(folder)


def expected_rewards(user_R: Int64s) -> Float64s:
    """Return what every arm brings, [R, K, M]: the first weight helps the users with an even number alone."""
    first_K, second_K = ARMS.places().T
    slope_R1 = np.where(user_R % 2 == 0, 0.6, -0.6)[:, None]
    first_RK = 0.5 + slope_R1 * (first_K - 0.5)
    second_RK = np.broadcast_to(0.8 - 0.5 * (second_K - 0.5) ** 2, first_RK.shape)
    return np.stack([first_RK, second_RK], axis=-1)


def explored_log(dataset: InteractionDataset, requests: int, seed: int = 2) -> tuple[ExplorationLog, Int64s]:
    """Return requests of random users, some unknown to the dataset, and the users' numbers.

    A tenth has production's arm and is not explored.
    """
    draw = np.random.default_rng(seed)
    user_R = draw.integers(len(dataset.user_ids_U), size=requests)
    explored_R = draw.random(requests) < 0.9
    arm_R = np.where(explored_R, draw.integers(len(ARMS), size=requests), ARMS.production_arm)
    expected_RKM = expected_rewards(user_R)
    log = ExplorationLog(
        info=ExplorationInfo(name="by-hand", arms=ARMS, synthetic=True, sha256="0" * 64),
        request_id_R=np.array([f"request-{number}" for number in range(requests)], np.object_),
        user_id_R=np.array([f"user-{user}" for user in user_R], np.object_),
        timestamp_R=np.sort(BEGIN + draw.integers(5 * DAY, DAYS * DAY, size=requests)),
        surface_R=draw.integers(2, size=requests),
        explored_R=explored_R,
        arm_R=arm_R,
        propensity_R=np.where(explored_R, 1 / len(ARMS), 1.0),
        reward_RM=(draw.random((requests, 2)) < expected_RKM[np.arange(requests), arm_R]).astype(np.float64),
    )
    return log, user_R


def small_config(dataset: InteractionDataset, **fields: Any) -> PolicyConfig:
    """Return sizes that train in seconds."""
    sizes = {"width": 16, "max_history": 12, "hidden": 16, "item_dim": 4, "id_dim": 4, "cohorts": COHORTS}
    return PolicyConfig.model_validate({**dataset.catalogue_fields, "arms": ARMS, **sizes, **fields})
