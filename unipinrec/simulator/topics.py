"""Topics: where they lie, what follows what, and what they make people do.

Shapes: C topics, D latent width, N nearest topics, A actions.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np

from unipinrec.arrays import Float64s, Int64s
from unipinrec.simulator.choice import SAVE, SHARE
from unipinrec.simulator.config import SimulatorConfig


@dataclass(frozen=True, slots=True)
class Topics:
    """What items and users have in common."""

    centre_CD: Float64s
    """Unit vectors."""
    near_CN: Int64s
    """The other topics with the most similar centres, nearest first."""
    transition_CC: Float64s
    """Preference for the column's topic in the session after one of the row's topic."""
    propensity_CA: Float64s
    """Logits that every item of the topic has."""

    @classmethod
    def draw(cls, config: SimulatorConfig, random: np.random.Generator) -> Self:
        """Draw topics at random."""
        count = config.topics
        centre_CD = unit(random.standard_normal((count, config.latent_dim)))
        similarity_CC = centre_CD @ centre_CD.T - 3 * np.eye(count)
        transition_CC = np.exp(config.transition_spread * random.standard_normal((count, count)))
        np.fill_diagonal(transition_CC, config.repeat_weight)
        lean_CA = random.standard_normal((count, len(config.topic_spread)))
        lean_CA[:, SHARE] = -lean_CA[:, SAVE]
        return cls(
            centre_CD=centre_CD,
            near_CN=np.argsort(-similarity_CC, axis=1, kind="stable")[:, : config.near_topics],
            transition_CC=transition_CC,
            propensity_CA=lean_CA * np.array(config.topic_spread),
        )


def unit(vector_D: Float64s) -> Float64s:
    """Return the vectors of the last axis at length 1."""
    return vector_D / np.linalg.norm(vector_D, axis=-1, keepdims=True)


def near(centre_D: Float64s, spread: float, random: np.random.Generator) -> Float64s:
    """Draw unit vectors around unit vectors, off by about `spread`."""
    noise_D = random.standard_normal(centre_D.shape)
    return unit(centre_D + spread / np.sqrt(centre_D.shape[-1]) * noise_D)
