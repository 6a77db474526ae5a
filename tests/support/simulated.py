"""One small simulated log for several tests, and arrays of its rows.

Shapes: S shown rows, A actions.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from unipinrec.simulator import Simulation, SimulatorConfig, simulate

SMALL = SimulatorConfig(
    users=500, items=800, sessions=8, seed=3, topics=16, near_topics=3, exploration_share=0.3
)


@dataclass(frozen=True)
class Rows:
    feedview_S: NDArray[np.int64]
    item_row_S: NDArray[np.int64]
    timestamp_S: NDArray[np.int64]
    done_SA: NDArray[np.bool_]
    explored_S: NDArray[np.bool_]
    user_S: NDArray[np.int64]


@cache
def small() -> Simulation:
    return simulate(SMALL, lambda _: None)


@cache
def small_rows() -> Rows:
    events = small().events
    actions_S = events["actions"].to_numpy()
    return Rows(
        feedview_S=events["feedview_id"].to_numpy(),
        item_row_S=events["item_id"].to_numpy() - 1,
        timestamp_S=events["timestamp"].to_numpy(),
        done_SA=np.stack([actions_S & bit != 0 for bit in (1, 2, 4, 8)], axis=1),
        explored_S=events["surface"].to_numpy() == 1,
        user_S=events["user_id"].str.slice(1).cast(int).to_numpy(),
    )
