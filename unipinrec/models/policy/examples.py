"""Explored requests as training takes them.

Shapes: R logged requests, B of them in a batch, K arms, M rewards, V items.
"""

import math
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from unipinrec.arrays import Float64s, Int64s
from unipinrec.data.exploration import ExplorationLog
from unipinrec.data.interactions import InteractionDataset
from unipinrec.models.policy.config import PolicyConfig
from unipinrec.models.policy.log_states import LogStates
from unipinrec.models.policy.module import StateTensors
from unipinrec.models.policy.state import inputs_of


@dataclass(frozen=True, slots=True)
class PolicyBatch:
    """Requests with the arm that each was served with, and what came of it."""

    state: StateTensors
    place_B2: Tensor
    reward_BM: Tensor

    def to(self, device: torch.device) -> Self:
        """Return the batch on a device."""
        return type(self)(self.state.to(device), self.place_B2.to(device), self.reward_BM.to(device))


def split_by_time(log: ExplorationLog, evaluation_share: float) -> tuple[ExplorationLog, ExplorationLog]:
    """Return the requests before and from a second on, such that `evaluation_share` of those explored are in
    the later part, or a little more where many fall into one second (PRL-PUTS §3.4).

    Raises `ValueError` if one of the parts has no explored request.
    """
    time_X = np.sort(log.timestamp_R[log.explored_R])
    kept = round(len(time_X) * (1 - evaluation_share))
    if not 0 < kept < len(time_X) or time_X[0] == time_X[kept]:
        raise ValueError(
            f"evaluation_share is {evaluation_share:g} of {len(time_X)} explored requests, which leaves one "
            "part empty; allowed: shares with explored requests before and after the cut"
        )
    later_R = log.timestamp_R >= time_X[kept]
    return log[~later_R], log[later_R]


class PolicyExamples(Dataset[PolicyBatch]):
    """The explored requests of a log, one example each, joined with a dataset's events when read.

    Raises `ValueError` if there are fewer than 2, which batch normalisation needs, or the log has other
    actions than the dataset or other arms than the configuration.
    """

    def __init__(
        self, interactions: InteractionDataset, log: ExplorationLog, config: PolicyConfig, seed: int
    ) -> None:
        if log.info.arms.actions != interactions.info.actions:
            raise ValueError(
                f"log {log.info.name} has actions {', '.join(log.info.arms.actions)}; allowed: "
                f"{', '.join(interactions.info.actions)}, those of {interactions.info.name}"
            )
        if log.info.arms != config.arms:
            raise ValueError(f"log {log.info.name} has other arms than the policy; allowed: the same")
        self._interactions, self._config, self._seed = interactions, config, seed
        self._log = log[log.explored_R]
        if len(self._log) < 2:
            raise ValueError(
                f"log {log.info.name} has {len(self._log)} explored requests; allowed: 2 or more"
            )
        self._states = LogStates(interactions, self._log, config)
        self._place_K2 = config.arms.places().astype(np.float32)

    def __len__(self) -> int:
        return len(self._log)

    def __getitem__(self, rows: Int64s) -> PolicyBatch:
        return PolicyBatch(
            StateTensors.of(inputs_of(self._states.windows(rows), self._config)),
            torch.from_numpy(self._place_K2[self._log.arm_R[rows]]),
            torch.from_numpy(self._log.reward_RM[rows].astype(np.float32)),
        )

    @property
    def interactions(self) -> InteractionDataset:
        """Return the dataset with the users' events."""
        return self._interactions

    @property
    def log(self) -> ExplorationLog:
        """Return the explored requests."""
        return self._log

    @property
    def sha256(self) -> dict[str, str]:
        """Return the hashes of the dataset's tables and of the log's."""
        return self._interactions.info.sha256 | {"exploration": self._log.info.sha256}

    def item_counts(self) -> Int64s:
        """Return the number of events of every item before the last request, [V]."""
        events = self._interactions
        row_X = events.item_row_E[events.timestamp_E < self._log.timestamp_R.max()]
        return np.bincount(row_X, minlength=len(events.item_ids_V))

    def mean_rewards(self) -> Float64s:
        """Return the mean of every reward, [M]."""
        mean_M: Float64s = self._log.reward_RM.mean(0)
        return mean_M

    def set_epoch(self, epoch: int) -> None:
        """Draw nothing: every epoch has all requests."""

    def batches(self, *, batch_size: int, seed: int, workers: int, draw: torch.Generator) -> DataLoader[Any]:
        """Return batches (`PolicyBatch`) of all requests in a random order given by both seeds.

        They are as many as `batch_size` makes, and of nearly equal sizes: a small last one would be
        normalised by few requests.
        """
        order_R = np.random.default_rng((self._seed, seed)).permutation(len(self))
        rows = np.array_split(order_R, math.ceil(len(self) / batch_size))
        # Without a batch size the loader asks for whole batches, each by its rows.
        return DataLoader(self, sampler=rows, batch_size=None, num_workers=workers, generator=draw)
