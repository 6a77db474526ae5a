"""One user's events in item rows, and how external item ids become rows.

Shapes: N events, V items.
"""

from dataclasses import dataclass

import numpy as np

from unipinrec.arrays import Bools, Int64s

UNKNOWN_ROW = -1
"""The row of an item that the catalogue does not have, and of padding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """Events of one user, oldest first."""

    item_row_N: Int64s
    actions_N: Int64s
    timestamp_N: Int64s
    surface_N: Int64s

    def __len__(self) -> int:
        return len(self.item_row_N)

    def __getitem__(self, chosen: slice | Int64s | Bools) -> "History":
        """Return some of the events, in order; views of the arrays for a slice."""
        return History(
            item_row_N=self.item_row_N[chosen],
            actions_N=self.actions_N[chosen],
            timestamp_N=self.timestamp_N[chosen],
            surface_N=self.surface_N[chosen],
        )


def rows_of(item_id_V: Int64s, item_id: Int64s) -> Int64s:
    """Return rows of external ids among the ascending `item_id_V`, in the same shape, else `UNKNOWN_ROW`."""
    row = np.searchsorted(item_id_V, item_id).clip(max=len(item_id_V) - 1)
    return np.where(item_id_V[row] == item_id, row, UNKNOWN_ROW).astype(np.int64)
