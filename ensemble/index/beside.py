"""Exact search of the items that stand beside an index, and both answers as one.

Shapes: Q query embeddings, O items beside the index, X left-out items, F items found in the index, K items
wanted, E item width.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ensemble.arrays import PADDING, Floats, Int64s


class Found(NamedTuple):
    """What the index has found."""

    item_row_QF: Int64s
    """Padded with `PADDING`."""
    vector_QFE: Floats
    """Of padding, any."""


@dataclass(frozen=True, slots=True)
class Beside:
    """Items beside an index, one row after another behind the index's."""

    vector_OE: Floats
    living_O: NDArray[np.bool_]
    """Which may be found."""
    first_row: int

    def merged(self, query_QE: Floats, count: int, found: Found, left_out_X: Int64s) -> Int64s:
        """Return item rows [Q, K] of largest inner product among what was found and what is beside, best
        first and padded with `PADDING`; `left_out_X` are places among the latter."""
        allowed_O = self.living_O.copy()
        allowed_O[left_out_X] = False
        row_P = np.flatnonzero(allowed_O)
        score_QP = query_QE @ self.vector_OE.T
        score_QP = score_QP[:, row_P]
        if count < len(row_P):
            best_QP = np.argpartition(-score_QP, count - 1, axis=1)[:, :count]
            row_QP, score_QP = row_P[best_QP], np.take_along_axis(score_QP, best_QP, axis=1)
        else:
            row_QP = np.broadcast_to(row_P, score_QP.shape)
        score_QF = np.einsum("qe,qfe->qf", query_QE, found.vector_QFE)
        score_QF[found.item_row_QF == PADDING] = -np.inf
        score_QX = np.concatenate([score_QF, score_QP], axis=1)
        row_QX = np.concatenate([found.item_row_QF, self.first_row + row_QP], axis=1)
        # Of equal scores, the item of the index comes first.
        order_QK = np.argsort(-score_QX, axis=1, kind="stable")[:, :count]
        merged_QK: Int64s = np.take_along_axis(row_QX, order_QK, axis=1)
        return merged_QK
