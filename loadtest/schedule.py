"""How much load at which time: stages of users or of requests a second, and the arrivals that follow.

Shapes: S arrivals.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray


class Shape(StrEnum):
    """How the load changes over the run."""

    CONSTANT = "constant"
    STEPS = "steps"
    SPIKE = "spike"


class Arrivals(StrEnum):
    """What starts a request."""

    CLOSED = "closed"
    """The user's last answer: a slow server is asked less."""
    POISSON = "poisson"
    """A schedule with exponential gaps, as of many independent callers."""
    EVEN = "even"
    """A schedule with equal gaps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A stretch of constant load."""

    seconds: float
    level: float
    """Users, or requests a second."""


SPIKE_AT, SPIKE_UNTIL = 0.4, 0.6


def stages_of(
    shape: Shape, level: float, seconds: float, *, warm_up_s: float = 0.0, steps: int = 4, spike: float = 3.0
) -> tuple[Stage, ...]:
    """Return the stages of a run of `warm_up_s` and `seconds`.

    Steps rise evenly up to `level`. A spike is `spike` times the level from 40 to 60 % of the time. The
    warm-up has the level of the first stage.
    """
    if shape is Shape.STEPS:
        stages = [Stage(seconds=seconds / steps, level=level * (n + 1) / steps) for n in range(steps)]
    elif shape is Shape.SPIKE:
        around = (SPIKE_AT, SPIKE_UNTIL - SPIKE_AT, 1 - SPIKE_UNTIL)
        stages = [
            Stage(seconds=seconds * share, level=level * factor)
            for share, factor in zip(around, (1.0, spike, 1.0), strict=True)
        ]
    else:
        stages = [Stage(seconds=seconds, level=level)]
    first = [Stage(seconds=warm_up_s, level=stages[0].level)] if warm_up_s else []
    return (*first, *stages)


def duration_s(stages: Sequence[Stage]) -> float:
    """Return the seconds of all stages."""
    return sum(stage.seconds for stage in stages)


def level_at(stages: Sequence[Stage], elapsed_s: float) -> float:
    """Return the level after so many seconds; that of the last stage from its end on."""
    until = 0.0
    for stage in stages:
        until += stage.seconds
        if elapsed_s < until:
            return stage.level
    return stages[-1].level


def arrivals(stages: Sequence[Stage], arrival: Arrivals, seed: int) -> NDArray[np.float64]:
    """Return the times [S] at which requests are due in seconds from the start, ascending.

    Raises `ValueError` for the closed loop, which has no schedule.
    """
    if arrival is Arrivals.CLOSED:
        raise ValueError("arrivals is closed; allowed: poisson, even")
    draw = np.random.default_rng((seed, 3))
    due, began = [], 0.0
    for stage in stages:
        due.append(began + _within(stage, arrival, draw))
        began += stage.seconds
    return np.concatenate(due)


def _within(stage: Stage, arrival: Arrivals, draw: np.random.Generator) -> NDArray[np.float64]:
    if arrival is Arrivals.EVEN:
        return np.arange(round(stage.level * stage.seconds)) / stage.level
    expected = stage.level * stage.seconds
    gaps = draw.exponential(1 / stage.level, size=int(expected + 10 * expected**0.5 + 20))
    due_S: NDArray[np.float64] = gaps.cumsum()
    return due_S[due_S < stage.seconds]
