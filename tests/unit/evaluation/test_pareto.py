"""Pareto frontiers of two rewards."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from unipinrec.arrays import Float64s
from unipinrec.evaluation.pareto import frontier, hypervolume, knee, non_dominated

# Small whole numbers, so that ties are common and areas are exact.
POINTS = st.integers(1, 12).flatmap(
    lambda count: arrays(np.float64, (count, 2), elements=st.integers(0, 6).map(float))
)


@given(POINTS)
def test_a_point_stays_when_no_other_is_at_least_as_good_in_both_and_better_in_one(points: Float64s) -> None:
    by_pairs = [
        not any((other >= point).all() and (other > point).any() for other in points) for point in points
    ]

    assert non_dominated(points).tolist() == by_pairs


@given(POINTS)
def test_the_hypervolume_is_the_number_of_unit_squares_below_any_point(points: Float64s) -> None:
    corners = np.stack(np.meshgrid(np.arange(1, 7), np.arange(1, 7)), axis=-1).reshape(-1, 2)
    covered = (corners[:, None] <= points[None]).all(axis=2).any(axis=1)

    assert hypervolume(points, np.zeros(2)) == covered.sum()


def test_a_frontier_runs_along_the_first_reward_and_has_equal_points_once() -> None:
    points = np.array([[3.0, 1.0], [1.0, 3.0], [2.0, 2.0], [2.0, 2.0], [2.0, 1.0]])

    assert frontier(points).tolist() == [1, 2, 0]
    assert non_dominated(points).tolist() == [True, True, True, True, False]


def test_a_hypervolume_counts_from_the_reference_point() -> None:
    points = np.array([[0.6, 0.3], [0.5, 0.5], [0.9, 0.1]])

    # (.6 - .5) x (.3 - .2) is all that is above (.5, .2).
    assert hypervolume(points, np.array([0.5, 0.2])) == pytest.approx(0.01)
    assert hypervolume(points, np.array([0.9, 0.9])) == 0.0


def test_the_knee_is_farthest_above_the_line_through_the_ends_whatever_the_units() -> None:
    points = np.array([[0.0, 10.0], [4.0, 9.0], [7.0, 7.0], [9.0, 3.0], [10.0, 0.0], [5.0, 5.0]])

    assert knee(points) == 2
    assert knee(points * [1e-3, 40.0] + [7.0, -100.0]) == 2


@pytest.mark.parametrize(
    ("points", "expected"), [([[1.0, 2.0]], 0), ([[1.0, 2.0], [0.0, 3.0], [0.5, 1.0]], 0)]
)
def test_without_three_points_on_the_frontier_the_knee_has_the_larger_first_reward(
    points: list[list[float]], expected: int
) -> None:
    assert knee(np.array(points)) == expected


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (np.zeros((0, 2)), "points is 0; allowed: 1 or more"),
        (np.zeros((3, 3)), r"shape of points is \(3, 3\); allowed: \(3, 2\)"),
        (np.array([[1.0, np.nan]]), r"points\[0, 1\] is nan; allowed: a number"),
    ],
)
def test_points_that_are_none_are_refused(points: Float64s, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        non_dominated(points)
    with pytest.raises(ValueError, match=message):
        knee(points)
