"""What a trained policy expects of requests, without a server.

Shapes: R requests, K arms, M rewards.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from unipinrec.arrays import Float32s, Int64s
from unipinrec.data.exploration import ExplorationLog
from unipinrec.data.interactions import InteractionDataset
from unipinrec.models.policy.cohorts import cohorts_of
from unipinrec.models.policy.log_states import LogStates
from unipinrec.models.policy.module import REWARDS, PolicyGraph, StateTensors, ValueNetwork
from unipinrec.models.policy.state import PolicyState, Windows, inputs_of

ROWS = 1024
"""Requests scored together."""

Progress = Callable[[int, int], None]
"""Told how many of all requests are scored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredLog:
    """What a policy expects of each logged request, in the log's order."""

    value_RKM: Float32s
    cohort_R: Int64s


class OfflinePolicy:
    """A trained value network that scores all arms."""

    def __init__(self, model: ValueNetwork) -> None:
        self.config = model.config
        self._graph = PolicyGraph(model).eval()
        self._place_K2 = torch.from_numpy(model.config.arms.places().astype(np.float32))

    def values(self, states: Sequence[PolicyState]) -> Float32s:
        """Return the expected rewards of every arm, [R, K, M]."""
        parts = [
            self._values(Windows.of_states(states[start : start + ROWS]))
            for start in range(0, len(states), ROWS)
        ]
        return np.concatenate([np.empty((0, len(self._place_K2), REWARDS), np.float32), *parts])

    def score(
        self, interactions: InteractionDataset, log: ExplorationLog, progress: Progress = lambda *_: None
    ) -> ScoredLog:
        """Return the expected rewards of every arm for all requests of a log, and their cohorts."""
        states = LogStates(interactions, log, self.config)
        value_RKM = np.empty((len(log), len(self._place_K2), REWARDS), np.float32)
        cohort_R = np.empty(len(log), np.int64)
        for start in range(0, len(log), ROWS):
            rows = slice(start, min(start + ROWS, len(log)))
            windows = states.windows(rows)
            value_RKM[rows], cohort_R[rows] = self._values(windows), cohorts_of(windows, self.config)
            progress(rows.stop, len(log))
        return ScoredLog(value_RKM=value_RKM, cohort_R=cohort_R)

    @torch.inference_mode()
    def _values(self, windows: Windows) -> Float32s:
        state = StateTensors.of(inputs_of(windows, self.config))
        value_RKM: Float32s = self._graph(*state, self._place_K2).numpy()
        return value_RKM
