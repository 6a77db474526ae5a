"""What ranks the simulated requests: candidates as the log's slates are made, and an imperfect ranker.

Shapes: B requests, C candidates of a request, A actions, I interests of a user, V items, U users, T topics.
"""

import numpy as np

from unipinrec.arrays import Float32s, Float64s, Int64s
from unipinrec.data.interactions import InteractionDataset
from unipinrec.simulator.choice import CLICK, conditional_probabilities, marginal_probabilities
from unipinrec.simulator.config import ChoiceConfig
from unipinrec.simulator.exploration_config import RankerConfig
from unipinrec.simulator.items import Items
from unipinrec.simulator.policy import LoggingPolicy
from unipinrec.simulator.truth import Truth


class CandidateSource:
    """Draws candidates of requests from the session's topic, other topics of the user's, popular items and
    all items, by the shares of the dataset's slates; on the surface `explore` from all items alone."""

    def __init__(
        self, interactions: InteractionDataset, truth: Truth, count: int, random: np.random.Generator
    ) -> None:
        """Raise `ValueError` if fewer than `count` items are ever shown."""
        warm = int((~truth.cold_V).sum())
        if count > warm:
            raise ValueError(f"candidates is {count}; allowed: 1 to {warm}, the items that are shown")
        self._truth = truth
        self._count = count
        world = truth.config.model_copy(update={"slate": (count, count)})
        self._policy = LoggingPolicy(world, _items(interactions, truth), random)
        self._topic_UI, self._weight_UI = _interests(truth)

    def draw(self, feedview_B: Int64s) -> Int64s:
        """Return the rows of different items for requests at these feedviews, [B, C]."""
        truth = self._truth
        topic_B, user_B = truth.topic_F[feedview_B], truth.user_F[feedview_B]
        topic_BI, weight_BI = self._topic_UI[user_B], self._weight_UI[user_B]
        other_BI = np.where(topic_BI == topic_B[:, None], 0.0, weight_BI)
        # Who has no other topic gets more of the session's.
        alone_B = other_BI.sum(axis=1) == 0
        other_BI[alone_B] = weight_BI[alone_B]
        _, item_row = self._policy.slates(topic_B, topic_BI, other_BI, truth.explored_F[feedview_B])
        return item_row.reshape(len(feedview_B), self._count)


class Ranker:
    """Predicts the chance of every action by the choice model, with errors."""

    def __init__(self, config: RankerConfig, choice: ChoiceConfig, random: np.random.Generator) -> None:
        self._choice = choice
        self._random = random
        self._knowledge_A: Float32s = np.array(config.user_knowledge, np.float32)
        self._noise_A: Float32s = np.array(config.noise, np.float32)

    def heads(self, affinity_BC: Float32s, item_BCA: Float32s, own_BA: Float32s) -> Float32s:
        """Return predicted marginal probabilities, [B, C, A], given items' and users' logits."""
        error_BCA: Float32s = self._noise_A * self._random.standard_normal(item_BCA.shape, np.float32)
        known_BA: Float32s = self._knowledge_A * own_BA
        logit_BCA: Float32s = item_BCA + known_BA[:, None] + error_BCA
        predicted_BCA = conditional_probabilities(affinity_BC, logit_BCA, self._choice)
        return marginal_probabilities(predicted_BCA).astype(np.float32)


def _items(interactions: InteractionDataset, truth: Truth) -> Items:
    """The catalogue, with clicks for popularity, as who builds a candidate source would have it."""
    feedviews = interactions.feedviews
    clicked_S = feedviews.actions_S >> CLICK & 1 == 1
    clicks_V = np.bincount(feedviews.item_row_S[clicked_S], minlength=len(truth.topic_V))
    return Items(
        topic_V=truth.topic_V,
        latent_VD=truth.latent_VD.astype(np.float64),
        popularity_V=clicks_V + 1.0,
        propensity_VA=truth.item_propensity_VA.astype(np.float64),
        cold_V=truth.cold_V,
        content_VF=interactions.content_VF,
    )


def _interests(truth: Truth) -> tuple[Int64s, Float64s]:
    """Each user's most frequent session topics and how frequent they are, [U, I] both."""
    users, topics = len(truth.user_propensity_UA), truth.config.topics
    pair_F = truth.user_F * topics + truth.topic_F
    count_UT = np.bincount(pair_F, minlength=users * topics).reshape(users, topics)
    topic_UI = np.argsort(-count_UT, axis=1, kind="stable")[:, : truth.config.interests[1]]
    return topic_UI, np.take_along_axis(count_UT, topic_UI, axis=1).astype(np.float64)
