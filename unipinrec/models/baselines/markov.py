"""A first-order Markov chain over items. A `catalogue.Scorer`.

Shapes: U users, B users of one chunk, V items of the catalogue, E events, P distinct transitions.
"""

import numpy as np
from numpy.typing import NDArray

from unipinrec.data.interactions import InteractionDataset
from unipinrec.models.baselines.places import place_in_history
from unipinrec.models.baselines.popularity import Popularity


class Markov:
    """Scores an item by how often it came right after the user's last item.

    Popularity decides among equal counts, and so orders the items that never came after it.
    """

    def __init__(self, dataset: InteractionDataset, end_U: NDArray[np.int64], popularity: Popularity) -> None:
        """Counts the transitions within the first `end_U` events of every user."""
        self._dataset = dataset
        self._fill_V = popularity.count_V / (popularity.count_V.max() + 1)
        items = len(dataset.item_ids_V)
        place_E = place_in_history(dataset)
        follows_E = (place_E > 0) & (place_E < np.repeat(end_U, np.diff(dataset.offset_U1)))
        next_E = np.flatnonzero(follows_E)
        pair_E = dataset.item_row_E[next_E - 1] * items + dataset.item_row_E[next_E]
        pair_P, self._count_P = np.unique(pair_E, return_counts=True)
        self._next_P = pair_P % items
        self._offset_V1 = np.searchsorted(pair_P, np.arange(items + 1) * items)

    def __call__(self, user_B: NDArray[np.int64], length_B: NDArray[np.int64]) -> NDArray[np.float64]:
        """Scores [B, V] after the first `length_B` events of each user; popularity alone where that is 0."""
        scores_BV = np.tile(self._fill_V, (len(user_B), 1))
        for scores_V, user, length in zip(scores_BV, user_B, length_B, strict=True):
            if length > 0:
                last = self._dataset.history(user).item_row_N[length - 1]
                after = slice(self._offset_V1[last], self._offset_V1[last + 1])
                scores_V[self._next_P[after]] += self._count_P[after]
        return scores_BV
