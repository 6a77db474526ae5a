"""What can be had of two rewards at once: the points that no other beats, and which of them to take.

All rewards are to be maximised. Shapes: X points; 2 rewards.
"""

import numpy as np

from unipinrec.arrays import Bools, Float64s, Int64s
from unipinrec.evaluation.checks import check_at_least, check_numbers, check_shape


def non_dominated(point_X2: Float64s) -> Bools:
    """Return which points no other beats: at least as good in both rewards and better in one. [X]

    Of equal points all stay or none. Raises `ValueError` if there are no points or one is nan.
    """
    _check(point_X2)
    # From the best first reward down, a point stays if its second is above all that came before it. Equal
    # points stand together, so the first of them answers for all.
    unique_U2, index_X = np.unique(point_X2, axis=0, return_inverse=True)
    second_U = unique_U2[np.lexsort((unique_U2[:, 1], unique_U2[:, 0]))[::-1], 1]
    before_U = np.maximum.accumulate(np.concatenate([[-np.inf], second_U[:-1]]))
    return (second_U > before_U)[::-1][index_X.ravel()]


def frontier(point_X2: Float64s) -> Int64s:
    """Return the non-dominated points from the smallest first reward up; of equal points the first given."""
    kept = np.flatnonzero(non_dominated(point_X2))
    _, first = np.unique(point_X2[kept], axis=0, return_index=True)
    return kept[first]


def hypervolume(point_X2: Float64s, reference_2: Float64s) -> float:
    """Return the area that the points dominate above a reference point (Zitzler and Thiele 1999).

    Points that are not above it in both rewards add nothing. Raises `ValueError` as `non_dominated`.
    """
    check_shape("reference", reference_2, (2,))
    check_numbers("reference", reference_2)
    above_X2 = np.maximum(point_X2 - reference_2, 0.0)
    edge_F2 = above_X2[frontier(above_X2)]
    width_F = np.diff(edge_F2[:, 0], prepend=0.0)
    return float(width_F @ edge_F2[:, 1])


def knee(point_X2: Float64s) -> int:
    """Return which point of the frontier is farthest above the line through its ends, both rewards scaled
    from 0 to 1 between them (Das 1999); of a frontier of one or two points, the last.

    Raises `ValueError` as `non_dominated`.
    """
    ends = frontier(point_X2)
    if len(ends) < 3:
        return int(ends[-1])
    edge_F2 = point_X2[ends]
    scaled_F2 = (edge_F2 - edge_F2.min(axis=0)) / np.ptp(edge_F2, axis=0)
    # From (0, 1) to (1, 0): the distance is that of the sum from 1, up to a factor.
    return int(ends[scaled_F2.sum(axis=1).argmax()])


def _check(point_X2: Float64s) -> None:
    check_at_least("points", len(point_X2), 1)
    check_shape("points", point_X2, (len(point_X2), 2))
    check_numbers("points", point_X2)
