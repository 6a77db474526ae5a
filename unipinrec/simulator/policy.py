"""The logging policy: which items a feedview shows.

Shapes: B feedviews of one step, P proposals for a feedview, K items of the largest slate, I interests,
C topics, W items that are shown at all ("warm") ordered by topic, S shown items of all feedviews of the step.
"""

import numpy as np

from unipinrec.arrays import Bools, Float64s, Int64s
from unipinrec.simulator.config import SimulatorConfig
from unipinrec.simulator.items import Items
from unipinrec.simulator.users import choose

SPARE = 2
"""Proposals for each item of the largest slate; repeated ones are dropped."""
SESSION, INTEREST, POPULAR, UNIFORM = range(4)


class LoggingPolicy:
    """Fills slates from the session's topic, the user's other interests, popular items and all items.

    Within topics, items are drawn by the square root of their popularity.
    """

    def __init__(self, config: SimulatorConfig, items: Items, random: np.random.Generator) -> None:
        self._config = config
        self._random = random
        warm = np.flatnonzero(~items.cold_V)
        self._item_W = warm[np.argsort(items.topic_V[warm], kind="stable")]
        popularity_W = items.popularity_V[self._item_W]
        self._popularity_W1 = _from_zero(popularity_W)
        self._in_topic_W1 = _from_zero(np.sqrt(popularity_W))
        self._begin_C1 = np.searchsorted(items.topic_V[self._item_W], np.arange(config.topics + 1))
        shares = (config.session_share, config.interest_share, config.popular_share)
        self._source_bound = np.cumsum(shares)

    def slates(
        self, topic_B: Int64s, topic_BI: Int64s, other_BI: Float64s, explored_B: Bools
    ) -> tuple[Int64s, Int64s]:
        """Return the feedview (its index in B, ascending) and item row of every shown item, as ordered.

        Args:
            topic_B: the session's topic.
            topic_BI: topics of the user's interests.
            other_BI: how often each of them is used for "other interests".
            explored_B: feedviews whose items all are drawn uniformly.
        """
        fewest, most = self._config.slate
        size_B = self._random.integers(fewest, most, len(topic_B), endpoint=True)
        proposed_BP = self._propose(topic_B, topic_BI, other_BI, explored_B)
        fallback_BK = self._distinct_items(len(topic_B), most)
        item_BP = np.concatenate([proposed_BP, fallback_BK], axis=1)
        first_BP = first_of_equal(item_BP)
        kept_BP = first_BP & (first_BP.cumsum(axis=1) <= size_B[:, None])
        return np.nonzero(kept_BP)[0], item_BP[kept_BP]

    def _propose(self, topic_B: Int64s, topic_BI: Int64s, other_BI: Float64s, explored_B: Bools) -> Int64s:
        shape = (len(topic_B), SPARE * self._config.slate[1])
        source_BP = np.searchsorted(self._source_bound, self._random.random(shape), side="right")
        source_BP[explored_B] = UNIFORM
        index_BP = self._random.integers(len(self._item_W), size=shape)
        popular = source_BP == POPULAR
        index_BP[popular] = self._drawn(self._popularity_W1, self._random.random(popular.sum()))
        session = source_BP == SESSION
        index_BP[session] = self._of_topics(topic_B[np.nonzero(session)[0]])
        interest = source_BP == INTEREST
        feedview = np.nonzero(interest)[0]
        chosen = choose(other_BI[feedview], self._random)
        index_BP[interest] = self._of_topics(topic_BI[feedview, chosen])
        return self._item_W[index_BP]

    def _of_topics(self, topic: Int64s) -> Int64s:
        low = self._in_topic_W1[self._begin_C1[topic]]
        high = self._in_topic_W1[self._begin_C1[topic + 1]]
        return self._drawn(self._in_topic_W1, low + self._random.random(len(topic)) * (high - low))

    def _drawn(self, cumulative_W1: Float64s, fraction: Float64s) -> Int64s:
        return np.searchsorted(cumulative_W1, fraction, side="right").clip(1, len(self._item_W)) - 1

    def _distinct_items(self, feedviews: int, count: int) -> Int64s:
        """As many different items as the largest slate has, for feedviews with too many repeats."""
        shuffled_W = self._random.permutation(self._item_W)
        begin_B = self._random.integers(len(shuffled_W), size=feedviews)
        run_BK = (begin_B[:, None] + np.arange(count)) % len(shuffled_W)
        return shuffled_W[run_BK]


def first_of_equal(value_BP: Int64s) -> Bools:
    """Return which values occur for the first time in their row, [B, P]."""
    order_BP = np.argsort(value_BP, axis=1, kind="stable")
    sorted_BP = np.take_along_axis(value_BP, order_BP, axis=1)
    new_BP = np.ones(value_BP.shape, np.bool_)
    new_BP[:, 1:] = sorted_BP[:, 1:] != sorted_BP[:, :-1]
    first_BP = np.empty_like(new_BP)
    np.put_along_axis(first_BP, order_BP, new_BP, axis=1)
    return first_BP


def _from_zero(weight_W: Float64s) -> Float64s:
    """Cumulative weights at the items' bounds, from 0 to 1."""
    cumulative_W = np.cumsum(weight_W)
    return np.concatenate([[0.0], cumulative_W / cumulative_W[-1]])
