"""The catalogue: what items are, and what is observed of them.

Shapes: V items, D latent width, A actions, F content width, S signals that content is made of.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import polars as pl

from unipinrec.arrays import Bools, Float32s, Float64s, Int64s
from unipinrec.simulator.choice import CLICK
from unipinrec.simulator.config import SimulatorConfig
from unipinrec.simulator.topics import Topics, near

FIRST_ID = 1
"""External id of row 0; the others follow."""


@dataclass(frozen=True, slots=True)
class Items:
    """All items by row."""

    topic_V: Int64s
    latent_VD: Float64s
    """Unit vectors."""
    popularity_V: Float64s
    """Positive, log-normal."""
    propensity_VA: Float64s
    """Logits of the actions: popularity's for a click, the topic's and the item's own."""
    cold_V: Bools
    """Never shown in the log. Every topic has other items."""
    content_VF: Float32s

    @classmethod
    def draw(cls, config: SimulatorConfig, topics: Topics, random: np.random.Generator) -> Self:
        """Draw items at random; a row says nothing about its item."""
        count = config.items
        number_V = random.permutation(count)
        topic_V = number_V % config.topics
        latent_VD = near(topics.centre_CD[topic_V], config.item_spread, random)
        log_popularity_V = config.popularity_spread * random.standard_normal(count)
        own_VA = random.standard_normal((count, len(config.item_spread_of_actions)))
        propensity_VA = topics.propensity_CA[topic_V] + own_VA * np.array(config.item_spread_of_actions)
        propensity_VA[:, CLICK] += config.popularity_effect * log_popularity_V
        return cls(
            topic_V=topic_V,
            latent_VD=latent_VD,
            popularity_V=np.exp(log_popularity_V),
            propensity_VA=propensity_VA,
            cold_V=number_V >= count - config.cold_items,
            content_VF=_content(latent_VD, propensity_VA, config, random),
        )

    def frame(self) -> pl.DataFrame:
        """Return the catalogue in `ITEM_SCHEMA`; an item's only attribute is its topic."""
        columns = {
            "item_id": external_ids(len(self.topic_V)),
            "topic": self.topic_V,
            "content": self.content_VF,
        }
        return pl.DataFrame(columns).select(
            "item_id",
            title=pl.format("Synthetic item {} of topic {}", "item_id", "topic"),
            attributes=pl.concat_list("topic"),
            content=pl.col("content").arr.to_list(),
        )


def external_ids(items: int) -> Int64s:
    """Return the item ids of the rows, ascending, [V]."""
    return np.arange(FIRST_ID, FIRST_ID + items)


def _content(
    latent_VD: Float64s, propensity_VA: Float64s, config: SimulatorConfig, random: np.random.Generator
) -> Float32s:
    """A noisy linear image of latent vectors and propensities, both at about unit variance."""
    signal_VS = np.concatenate([np.sqrt(config.latent_dim) * latent_VD, propensity_VA], axis=1)
    width = signal_VS.shape[1]
    image_SF = random.standard_normal((width, config.content_dim)) / np.sqrt(width)
    noise_VF = config.content_noise * random.standard_normal((len(signal_VS), config.content_dim))
    return (signal_VS @ image_SF + noise_VF).astype(np.float32)
