"""A synthetic contextual bandit whose users differ, in which what a policy earns is a finite sum.

A user is of one of several types, which policies and models see, and has a mood, which they do not see; both
bear on all rewards of the user. Arms are a grid of 7 x 7 pairs of weights, and production's, drawn uniformly.

Shapes: T user types, X contexts, H moods, K arms, F terms of the model, U users, R requests, P policies.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from unipinrec.arrays import Float64s, Int64s
from unipinrec.config import Config
from unipinrec.evaluation.off_policy import ExploredRewards

TYPES, CONTEXTS, STEPS = 40, 3, 7
MOODS = np.array([-1.0, 0.0, 1.0])
PRODUCTION_PLACE = (0.45, 0.28)
LEARNED, PRODUCTION = 0, 1
"""The two policies: the best arm of a model, and production's arm for everyone."""


class World(Config):
    """Sizes of a log, and how users differ."""

    name: str
    users: int
    requests: int
    """Of a user in the mean, at least 2: geometric, three times as many for the types who like most."""
    appetite: float
    """Standard deviation over types of a reward's logit: what a state tells."""
    mood: float
    """By how much a mood moves the logit: what no state tells."""
    training_requests: int = 60_000
    """Of other users, to which the model is fitted."""


@dataclass(frozen=True)
class Bandit:
    """One world, the same from a seed."""

    world: World
    seed: int = 0

    @cached_property
    def places(self) -> Float64s:
        """Return the two weights of each arm, scaled from 0 to 1, [K, 2]."""
        steps = np.linspace(0, 1, STEPS)
        grid_K2 = np.stack(np.meshgrid(steps, steps, indexing="ij"), axis=-1).reshape(-1, 2)
        return np.concatenate([grid_K2, [PRODUCTION_PLACE]])

    @cached_property
    def chances(self) -> Float64s:
        """Return the chance of a reward, [T, X, H, K]: a type has its best weights, which a context moves."""
        random = np.random.default_rng([self.seed, 0])
        level_T = self.world.appetite * random.normal(size=TYPES)
        best_TX2 = random.random((TYPES, 1, 2)) + 0.15 * random.normal(size=(1, CONTEXTS, 2))
        distance_TXK = np.square(best_TX2[:, :, None] - self.places).sum(axis=-1)
        logit_TXHK = (1 + level_T)[:, None, None, None] - 4 * distance_TXK[:, :, None]
        chance_TXHK: Float64s = 1 / (1 + np.exp(-logit_TXHK - self.world.mood * MOODS[:, None]))
        return chance_TXHK

    @cached_property
    def activity(self) -> Float64s:
        """Return the mean number of requests of a user by type, [T]."""
        rank_T: Int64s = self.chances.mean(axis=(1, 2, 3)).argsort().argsort()
        return self.world.requests * (0.5 + rank_T / (TYPES - 1))

    @cached_property
    def expected(self) -> Float64s:
        """Return what a model expects, [T, K]: for each type a quadratic surface over the weights, fitted by
        least squares to another log. It knows neither contexts nor moods, and the truth has another shape."""
        users = self.world.training_requests // self.world.requests
        log, type_R = self._draw(np.random.default_rng([self.seed, 1]), users)
        first, second = self.places.T
        term_KF = np.stack([np.ones(len(first)), first, second, first**2, second**2, first * second], axis=1)
        weight_TF = [
            np.linalg.lstsq(term_KF[log.arm_R[type_R == each]], log.reward_R[type_R == each], rcond=None)[0]
            for each in range(TYPES)
        ]
        value_TK: Float64s = np.clip(np.stack(weight_TF) @ term_KF.T, 0.0, 1.0)
        return value_TK

    @cached_property
    def choices(self) -> Int64s:
        """Return the arm of each policy by type, [P, T]."""
        return np.stack([self.expected.argmax(axis=1), np.full(TYPES, len(self.places) - 1)])

    @cached_property
    def truths(self) -> Float64s:
        """Return what each policy earns in the mean over requests, [P]."""
        chance_TK = self.chances.mean(axis=(1, 2))
        chance_TP = np.take_along_axis(chance_TK, self.choices.T, axis=1)
        truth_P: Float64s = self.activity @ chance_TP / self.activity.sum()
        return truth_P

    def log(self, number: int) -> tuple[ExploredRewards, list[Int64s]]:
        """Return one of the logs, with the model's values, and the arms of the policies in it."""
        log, type_R = self._draw(np.random.default_rng([self.seed, 2, number]), self.world.users)
        return replace(log, value_RK=self.expected[type_R]), [arm_T[type_R] for arm_T in self.choices]

    def explained(self) -> float:
        """Return the share of the variance of the learned policy's rewards that the model explains."""
        arm_T = self.choices[LEARNED]
        share_T = self.activity / self.activity.sum()
        chance_T = np.take_along_axis(self.chances.mean(axis=(1, 2)), arm_T[:, None], axis=1)[:, 0]
        value_T = np.take_along_axis(self.expected, arm_T[:, None], axis=1)[:, 0]
        variance = self.truths[LEARNED] * (1 - self.truths[LEARNED])
        # Of a reward r that is 0 or 1: E (r - q)^2 = E r - 2 q E r + q^2.
        left = share_T @ (chance_T - 2 * value_T * chance_T + value_T**2)
        return float(1 - left / variance)

    def _draw(self, random: np.random.Generator, users: int) -> tuple[ExploredRewards, Int64s]:
        type_U, mood_U = random.integers(TYPES, size=users), random.integers(len(MOODS), size=users)
        user_R = np.repeat(np.arange(users), random.geometric(1 / self.activity[type_U]))
        type_R, context_R = type_U[user_R], random.integers(CONTEXTS, size=len(user_R))
        arm_R = random.integers(len(self.places), size=len(user_R))
        chance_R = self.chances[type_R, context_R, mood_U[user_R], arm_R]
        log = ExploredRewards(
            arm_R=arm_R,
            propensity_R=np.full(len(arm_R), 1 / len(self.places)),
            reward_R=(random.random(len(arm_R)) < chance_R).astype(np.float64),
            cluster_R=user_R,
        )
        return log, type_R
