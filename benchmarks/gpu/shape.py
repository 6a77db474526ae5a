"""The sizes that ranking forwards are compared at."""

from dataclasses import dataclass

from unipinrec.models.unified.config import UnifiedConfig, preset

ACTIONS, SURFACES = 4, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """One batch and how often it is run."""

    name: str
    model: UnifiedConfig
    batch: int
    positions: int
    """Of each history, BOS among them."""
    candidates: int
    continued: int
    """Events that a returning user brings."""
    steps: int
    """Autoregressive steps of the generation that is measured."""
    sets: int
    """Batches of different histories and candidates in turn, so that no cache holds what comes next."""
    repetitions: int
    """Measured launches, after `warm_ups` that are not."""
    warm_ups: int
    matrix: int
    """Rows and columns of the square matrices that the card's own rate is measured with."""
    copied_bytes: int
    """Of the copy that the card's own bandwidth is measured with."""

    @property
    def slots(self) -> int:
        """Histories of all sets together."""
        return self.sets * self.batch


PAPER = Shape(
    name="paper",
    model=preset("paper", num_items=100_000, num_actions=ACTIONS, num_surfaces=SURFACES),
    batch=8,
    positions=992,
    candidates=656,
    continued=16,
    steps=6,
    sets=4,
    repetitions=60,
    warm_ups=10,
    matrix=8192,
    copied_bytes=2 << 30,
)
"""UniPinRec's shape (§1.7, Table 2)."""

TINY = Shape(
    name="tiny",
    model=preset("tiny", num_items=200, num_actions=ACTIONS, num_surfaces=SURFACES),
    batch=2,
    positions=16,
    candidates=16,
    continued=3,
    steps=2,
    sets=2,
    repetitions=2,
    warm_ups=1,
    matrix=64,
    copied_bytes=1 << 16,
)
"""For a dry run: the same code, and no number worth keeping."""

SHAPES = {shape.name: shape for shape in (PAPER, TINY)}
