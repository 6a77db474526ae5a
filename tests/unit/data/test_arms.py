"""Arms: a grid, and the production weights as one arm of it or as the last."""

import numpy as np

from unipinrec.data.arms import NO_ARM, Arms, WeightRange

VARIED = (
    WeightRange(action="save", low=1.0, high=3.0, steps=3),
    WeightRange(action="share", low=0.0, high=4.0, steps=2),
)
GRID = [[1.0, 0.0], [1.0, 4.0], [2.0, 0.0], [2.0, 4.0], [3.0, 0.0], [3.0, 4.0]]


def arms(save: float, share: float) -> Arms:
    return Arms(actions=("save", "hide", "share"), production=(save, 7.0, share), varied=VARIED)


def test_production_weights_off_the_grid_are_the_last_arm() -> None:
    off = arms(1.5, 1.0)
    assert (len(off), off.production_arm) == (7, 6)
    assert off.weights()[:, [0, 2]].tolist() == [*GRID, [1.5, 1.0]]
    assert off.weights()[:, 1].tolist() == [7.0] * 7
    assert off.places()[-1].tolist() == [0.25, 0.25]


def test_production_weights_on_the_grid_are_no_arm_besides() -> None:
    """Two equal arms would be one in a log, with a propensity that is half of what was drawn."""
    on = arms(2.0, 4.0)
    assert (len(on), on.production_arm) == (6, 3)
    assert on.weights()[:, [0, 2]].tolist() == GRID


def test_a_pair_of_weights_is_that_of_its_arm_or_of_none() -> None:
    pairs = np.array([[3.0, 0.0], [1.5, 1.0], [1.50001, 1.0], [1.51, 1.0], [0.0, 0.0]])
    assert arms(1.5, 1.0).index_of(pairs).tolist() == [4, 6, 6, NO_ARM, NO_ARM]
