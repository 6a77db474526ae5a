"""Places of events in histories.

Shapes: E events of all users, U users.
"""

import numpy as np
from numpy.typing import NDArray

from unipinrec.data.interactions import InteractionDataset


def place_in_history(dataset: InteractionDataset) -> NDArray[np.int64]:
    """Return the index of every event within its user's history, [E]."""
    length_U = np.diff(dataset.offset_U1)
    return np.arange(len(dataset.item_row_E)) - np.repeat(dataset.offset_U1[:-1], length_U)
