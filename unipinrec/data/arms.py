"""The weight vectors that a policy chooses among: a grid of two weights, and the production weights.

Shapes: K arms, A actions, X weight vectors.
"""

from functools import cached_property
from typing import Annotated, Self

import numpy as np
from pydantic import Field, FiniteFloat, model_validator

from unipinrec.arrays import Float64s, Int64s
from unipinrec.config import Config

RELATIVE_TOLERANCE = 1e-4
"""By which a logged weight may differ from its arm's: logs hold what a float32 or a decimal text kept."""

NO_ARM = -1

Weight = Annotated[FiniteFloat, Field(ge=0.0)]


class WeightRange(Config):
    """One action whose weight is chosen."""

    action: str
    low: Weight
    high: Weight
    steps: Annotated[int, Field(ge=2, le=32)] = 7
    """Evenly spaced values from `low` to `high`, both included (PRL-PUTS §3.1: 7)."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.low >= self.high:
            raise ValueError(
                f"low is {self.low}, high is {self.high}; allowed: the smaller number, then the larger"
            )
        return self


class Arms(Config):
    """What a policy may choose (PRL-PUTS §3.1): arm `i * steps + j` has the i-th value of the first range and
    the j-th of the second. One more arm, the last, has the production weights if no arm of the grid does: no
    two arms are the same, so that a propensity is that of its weights. Weights of all other actions are those
    of production in every arm."""

    actions: Annotated[tuple[str, ...], Field(min_length=2, max_length=32)]
    """All actions of the dataset, in bit order."""
    production: tuple[Weight, ...]
    """Static weight of each action."""
    varied: tuple[WeightRange, WeightRange]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.production) != len(self.actions):
            raise ValueError(
                f"production has {len(self.production)} weights; allowed: {len(self.actions)}, one for each "
                f"of {', '.join(self.actions)}"
            )
        names = tuple(chosen.action for chosen in self.varied)
        if len(set(names)) < 2 or not set(names) <= set(self.actions):
            raise ValueError(f"varied is {', '.join(names)}; allowed: two of {', '.join(self.actions)}")
        for chosen, column in zip(self.varied, self.columns, strict=True):
            if not chosen.low <= self.production[column] <= chosen.high:
                raise ValueError(
                    f"production weight of {chosen.action} is {self.production[column]}; allowed: "
                    f"{chosen.low} to {chosen.high}, as the range that a policy learns about"
                )
        return self

    @property
    def columns(self) -> tuple[int, int]:
        """Return the indexes of the two varied actions among all."""
        first, second = (self.actions.index(chosen.action) for chosen in self.varied)
        return first, second

    @cached_property
    def production_arm(self) -> int:
        """Return the index of the production weights."""
        production_12 = np.array([[self.production[column] for column in self.columns]])
        on_grid = int(_arm_of(production_12, self._grid())[0])
        return self.varied[0].steps * self.varied[1].steps if on_grid == NO_ARM else on_grid

    def __len__(self) -> int:
        return max(self.varied[0].steps * self.varied[1].steps, self.production_arm + 1)

    def weights(self) -> Float64s:
        """Return the weight of every action in every arm, [K, A]."""
        weight_KA = np.tile(np.array(self.production, np.float64), (len(self), 1))
        grid_X2 = self._grid()
        weight_KA[: len(grid_X2), list(self.columns)] = grid_X2
        return weight_KA

    def places(self) -> Float64s:
        """Return the two varied weights of every arm, each from 0 at its `low` to 1 at its `high`, [K, 2]."""
        low = np.array([chosen.low for chosen in self.varied])
        high = np.array([chosen.high for chosen in self.varied])
        place_K2: Float64s = (self.weights()[:, list(self.columns)] - low) / (high - low)
        return place_K2

    def index_of(self, weight_X2: Float64s) -> Int64s:
        """Return the arm of each pair of varied weights, [X]; `NO_ARM` for a pair that is off the grid."""
        return _arm_of(weight_X2, self.weights()[:, list(self.columns)])

    def _grid(self) -> Float64s:
        first, second = (np.linspace(chosen.low, chosen.high, chosen.steps) for chosen in self.varied)
        return np.column_stack([np.repeat(first, len(second)), np.tile(second, len(first))])


def _arm_of(weight_X2: Float64s, arm_K2: Float64s) -> Int64s:
    near_XK = np.isclose(weight_X2[:, None], arm_K2, rtol=RELATIVE_TOLERANCE, atol=0.0).all(axis=2)
    return np.where(near_XK.any(axis=1), near_XK.argmax(axis=1), NO_ARM).astype(np.int64)
