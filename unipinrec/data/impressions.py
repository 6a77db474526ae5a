"""Stand-ins for impressions, for logs that have none.

Shapes: V items, X items left out, K items drawn.
"""

from collections.abc import Callable

import numpy as np

from unipinrec.arrays import Int64s

ROUNDS = 8
"""Times that too few distinct unseen items are topped up, before fewer are returned."""


class ImpressionSampler:
    """Draws item rows, half uniformly and half by popularity."""

    def __init__(self, count_V: Int64s) -> None:
        self._items = len(count_V)
        self._cumulative_V = np.cumsum(count_V)

    def draw(self, random: np.random.Generator, count: int, seen_X: Int64s) -> Int64s:
        """Draw at most `count` distinct rows, none of `seen_X`; fewer where nearly everything is seen."""
        uniform_K = _distinct(lambda n: random.integers(self._items, size=n), count - count // 2, seen_X)
        taken_X = np.concatenate([seen_X, uniform_K])
        popular_K = _distinct(lambda n: self._popular(random, n), count // 2, taken_X)
        return np.concatenate([uniform_K, popular_K])

    def _popular(self, random: np.random.Generator, count: int) -> Int64s:
        drawn = random.integers(self._cumulative_V[-1], size=count)
        return np.searchsorted(self._cumulative_V, drawn, side="right")


def _distinct(draw: Callable[[int], Int64s], count: int, left_out_X: Int64s) -> Int64s:
    found_K = np.empty(0, np.int64)
    for _ in range(ROUNDS):
        drawn = np.concatenate([found_K, draw(2 * count)])
        first = np.sort(np.unique(drawn, return_index=True)[1])
        distinct = drawn[first]
        found_K = distinct[~np.isin(distinct, left_out_X)][:count]
        if len(found_K) == count:
            break
    return found_K
