"""Topics: where they lie, what follows what, and what they make people do.

Shapes: C topics, D latent width, N nearest topics, A actions.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from unipinrec.simulator.choice import SAVE, SHARE
from unipinrec.simulator.config import SimulatorConfig

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Topics:
    """What items and users have in common."""

    centre_CD: Floats
    """Unit vectors."""
    near_CN: NDArray[np.int64]
    """The other topics with the most similar centres, nearest first."""
    transition_CC: Floats
    """Preference for the column's topic in the session after one of the row's topic."""
    propensity_CA: Floats
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


def unit(vector_D: Floats) -> Floats:
    """Return the vectors of the last axis at length 1."""
    length: Floats = np.linalg.norm(vector_D, axis=-1, keepdims=True)
    return vector_D / length


def near(centre_D: Floats, spread: float, random: np.random.Generator) -> Floats:
    """Draw unit vectors around unit vectors, off by about `spread`."""
    noise_D = random.standard_normal(centre_D.shape)
    return unit(centre_D + spread / np.sqrt(centre_D.shape[-1]) * noise_D)
