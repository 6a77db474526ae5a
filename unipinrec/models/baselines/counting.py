"""Recommenders that count: popularity, and a first-order Markov chain. Each is a `catalogue.Scorer`.

Shapes: U users, B users of one chunk, V items of the catalogue, E events, P distinct transitions.
"""

import numpy as np

from unipinrec.arrays import Float64s, Int64s
from unipinrec.data.interactions import InteractionDataset


class Popularity:
    """Scores an item by its number of events, the same for everyone."""

    def __init__(self, dataset: InteractionDataset, end_U: Int64s) -> None:
        """Counts the first `end_U` events of every user."""
        row_E = dataset.item_row_E[_place_in_history(dataset) < np.repeat(end_U, np.diff(dataset.offset_U1))]
        self.count_V = np.bincount(row_E, minlength=len(dataset.item_ids_V))

    def __call__(self, user_B: Int64s, _length_B: Int64s) -> Float64s:
        """Scores [B, V]."""
        return np.tile(self.count_V.astype(np.float64), (len(user_B), 1))


class Markov:
    """Scores an item by how often it came right after the user's last item.

    Popularity decides among equal counts, and so orders the items that never came after it.
    """

    def __init__(self, dataset: InteractionDataset, end_U: Int64s, popularity: Popularity) -> None:
        """Counts the transitions within the first `end_U` events of every user."""
        self._dataset = dataset
        self._fill_V = popularity.count_V / (popularity.count_V.max() + 1)
        items = len(dataset.item_ids_V)
        place_E = _place_in_history(dataset)
        follows_E = (place_E > 0) & (place_E < np.repeat(end_U, np.diff(dataset.offset_U1)))
        next_E = np.flatnonzero(follows_E)
        pair_E = dataset.item_row_E[next_E - 1] * items + dataset.item_row_E[next_E]
        pair_P, self._count_P = np.unique(pair_E, return_counts=True)
        self._next_P = pair_P % items
        self._offset_V1 = np.searchsorted(pair_P, np.arange(items + 1) * items)

    def __call__(self, user_B: Int64s, length_B: Int64s) -> Float64s:
        """Scores [B, V] after the first `length_B` events of each user; popularity alone where that is 0."""
        scores_BV = np.tile(self._fill_V, (len(user_B), 1))
        for scores_V, user, length in zip(scores_BV, user_B, length_B, strict=True):
            if length > 0:
                last = self._dataset.history(user).item_row_N[length - 1]
                after = slice(self._offset_V1[last], self._offset_V1[last + 1])
                scores_V[self._next_P[after]] += self._count_P[after]
        return scores_BV


def _place_in_history(dataset: InteractionDataset) -> Int64s:
    """The index of every event within its user's history, [E]."""
    length_U = np.diff(dataset.offset_U1)
    return np.arange(len(dataset.item_row_E)) - np.repeat(dataset.offset_U1[:-1], length_U)
