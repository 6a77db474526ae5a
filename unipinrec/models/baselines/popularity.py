"""Popularity, the recommender that knows no user. A `catalogue.Scorer`.

Shapes: U users, B users of one chunk, V items of the catalogue, E events.
"""

import numpy as np
from numpy.typing import NDArray

from unipinrec.data.interactions import InteractionDataset
from unipinrec.models.baselines.places import place_in_history


class Popularity:
    """Scores an item by its number of events, the same for everyone."""

    def __init__(self, dataset: InteractionDataset, end_U: NDArray[np.int64]) -> None:
        """Counts the first `end_U` events of every user."""
        row_E = dataset.item_row_E[place_in_history(dataset) < np.repeat(end_U, np.diff(dataset.offset_U1))]
        self.count_V = np.bincount(row_E, minlength=len(dataset.item_ids_V))

    def __call__(self, user_B: NDArray[np.int64], _length_B: NDArray[np.int64]) -> NDArray[np.float64]:
        """Scores [B, V]."""
        return np.tile(self.count_V.astype(np.float64), (len(user_B), 1))
