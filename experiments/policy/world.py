"""One synthetic world: who is held out, what everyone learns from, and the truth of the requests after it.

Shapes: U users, F feedviews, R requests, K arms, M rewards.
"""

from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path

import numpy as np
from rich.progress import Progress

from unipinrec.arrays import Bools, Float32s, Float64s, Int64s
from unipinrec.config import Config, Count, Probability
from unipinrec.data.arms import Arms
from unipinrec.data.exploration import ExplorationLog
from unipinrec.data.interactions import InteractionDataset
from unipinrec.simulator.config import DAY, HOUR, SimulatorConfig
from unipinrec.simulator.exploration import expected_of_weights, load_expected, simulate_exploration
from unipinrec.simulator.exploration_config import ExplorationConfig
from unipinrec.simulator.simulation import prepare_simulation
from unipinrec.simulator.truth import Truth


class WorldConfig(Config):
    """How large a world is, and how much of it is explored.

    The shares say nothing of what a product would spend: they make the same log from less simulated traffic.
    """

    users: Count = 12_000
    items: Count = 4_000
    held_out_share: Probability = 0.15
    """Share of the users whose requests nobody learns from."""
    late_share: Probability = 1 / 3
    """Share of the time, the latest, in which nobody learns (PRL-PUTS §3.4: 7 of 21 days)."""
    training_traffic: Count = 1
    """Requests at each feedview before, of the other users; all explore."""
    evaluation_traffic: Count = 6
    """Requests at each feedview after, of users held out; all explore."""


@dataclass(frozen=True, kw_only=True)
class PolicyWorld:
    """Two exploration logs of one simulated dataset, of different users and different days."""

    interactions: InteractionDataset
    truth: Truth
    config: WorldConfig
    seed: int
    training: ExplorationLog
    evaluation: ExplorationLog
    expected_RKM: Float32s
    """What every arm would have brought in the evaluation's requests."""

    @classmethod
    def prepare(cls, folder: Path, config: WorldConfig, seed: int, progress: Progress) -> "PolicyWorld":
        """Simulate a world into `folder`, or read what an earlier call left of it there."""
        dataset = folder / "dataset"
        if not dataset.exists():
            simulator = SimulatorConfig(users=config.users, items=config.items, seed=seed)
            prepare_simulation(dataset, simulator, lambda _: None)
        interactions, truth = InteractionDataset.load(dataset), Truth.load(dataset)
        parts = {
            "training": (cls._training_exploration(config, seed), False),
            "evaluation": (cls._evaluation_exploration(config, seed), True),
        }
        for name, (exploration, late) in parts.items():
            if not (folder / name / "truth.safetensors").exists():
                served_F = _served(interactions, truth, config, late=late)
                simulate_exploration(interactions, truth, exploration, progress, served_F=served_F).save(
                    folder / name
                )
        return cls(
            interactions=interactions,
            truth=truth,
            config=config,
            seed=seed,
            training=ExplorationLog.load(folder / "training"),
            evaluation=ExplorationLog.load(folder / "evaluation"),
            expected_RKM=load_expected(folder / "evaluation"),
        )

    def expected_of(self, weight_XA: Float64s, progress: Progress) -> Float32s:
        """Return what weights off the grid would have brought in the evaluation's requests, [R, X, M]."""
        served_F = _served(self.interactions, self.truth, self.config, late=True)
        exploration = self._evaluation_exploration(self.config, self.seed)
        return expected_of_weights(
            self.interactions, self.truth, exploration, weight_XA, progress, served_F=served_F
        )

    @property
    def arms(self) -> Arms:
        """Return what policies choose among."""
        return self.evaluation.info.arms

    @cached_property
    def users(self) -> Int64s:
        """Return the number of the user of every request of the evaluation, [R]."""
        return np.unique(self.evaluation.user_id_R, return_inverse=True)[1].astype(np.int64)

    @cached_property
    def state_rows(self) -> Int64s:
        """Return which of `states` every request of the evaluation has, [R]."""
        return self._states[1].astype(np.int64)

    @property
    def states(self) -> ExplorationLog:
        """Return one request of the evaluation for each state: those of a user's feedview share theirs."""
        return self.evaluation[self._states[0]]

    def session_begun(self) -> Bools:
        """Return in which requests of the evaluation the user did something in the hour before, [R]."""
        events, log = self.interactions, self.states
        index = {user: number for number, user in enumerate(events.user_ids_U)}
        begun_S = np.zeros(len(log), bool)
        for row, (user, second) in enumerate(zip(log.user_id_R, log.timestamp_R, strict=True)):
            time_N = events.history(index[user]).timestamp_N
            begun_S[row] = ((time_N < second) & (time_N >= second - HOUR)).any()
        return begun_S[self.state_rows]

    @cached_property
    def _states(self) -> tuple[Int64s, Int64s]:
        second_R = self.evaluation.timestamp_R - self.evaluation.timestamp_R.min()
        key_R = self.users * (int(second_R.max()) + 1) + second_R
        _, first, inverse_R = np.unique(key_R, return_index=True, return_inverse=True)
        return first, inverse_R

    @staticmethod
    def _training_exploration(config: WorldConfig, seed: int) -> ExplorationConfig:
        return ExplorationConfig(share=1.0, traffic=config.training_traffic, seed=2 * seed + 1)

    @staticmethod
    def _evaluation_exploration(config: WorldConfig, seed: int) -> ExplorationConfig:
        return ExplorationConfig(share=1.0, traffic=config.evaluation_traffic, seed=2 * seed + 2)


def held_out(user_id: str, share: float) -> bool:
    """Return whether a user is held out, by a hash of the id: always the same ones."""
    return int.from_bytes(sha256(f"held out {user_id}".encode()).digest()[:4]) < share * 2**32


def _served(interactions: InteractionDataset, truth: Truth, config: WorldConfig, *, late: bool) -> Bools:
    held_out_U = np.array([held_out(user, config.held_out_share) for user in interactions.user_ids_U], bool)
    cut = truth.config.end - round(config.late_share * truth.config.days * DAY)
    if late:
        return held_out_U[truth.user_F] & (truth.timestamp_F >= cut)
    return ~held_out_U[truth.user_F] & (truth.timestamp_F < cut)
