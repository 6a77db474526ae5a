"""One user's events in item rows, and how external item ids become rows.

Shapes: N events, V items.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

UNKNOWN_ROW = -1
"""The row of an item that the catalogue does not have, and of padding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """Events of one user, oldest first."""

    item_row_N: NDArray[np.int64]
    actions_N: NDArray[np.int64]
    timestamp_N: NDArray[np.int64]
    surface_N: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.item_row_N)

    def __getitem__(self, chosen: slice | NDArray[np.int64] | NDArray[np.bool_]) -> "History":
        """Return some of the events, in order; views of the arrays for a slice."""
        return History(
            item_row_N=self.item_row_N[chosen],
            actions_N=self.actions_N[chosen],
            timestamp_N=self.timestamp_N[chosen],
            surface_N=self.surface_N[chosen],
        )


def rows_of(item_id_V: NDArray[np.int64], item_id: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return rows of external ids among the ascending `item_id_V`, in the same shape, else `UNKNOWN_ROW`."""
    row = np.searchsorted(item_id_V, item_id).clip(max=len(item_id_V) - 1)
    return np.where(item_id_V[row] == item_id, row, UNKNOWN_ROW).astype(np.int64)
