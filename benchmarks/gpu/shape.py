"""The sizes that ranking forwards are compared at."""

from dataclasses import dataclass

from unipinrec.models.unified.config import UnifiedConfig, preset


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The sizes of one batch."""

    name: str
    model: UnifiedConfig
    batch: int
    slots: int
    """Of the pool, most of them empty: what a kernel does for a batch depends on how many there are."""
    positions: int
    """Of each history, BOS among them."""
    candidates: int
    continued: int
    """Events that a returning user brings."""
    steps: int
    """Autoregressive steps of the generation that is measured."""


PAPER = Shape(
    name="paper", model=preset("paper", num_items=100_000, num_actions=4, num_surfaces=2), batch=8, slots=64,
    positions=992, candidates=656, continued=16, steps=6,
)  # fmt: skip
"""UniPinRec's shape (§1.7, Table 2)."""

TINY = Shape(
    name="tiny", model=preset("tiny", num_items=200, num_actions=4, num_surfaces=2), batch=2, slots=4,
    positions=16, candidates=16, continued=3, steps=2,
)  # fmt: skip
"""For a dry run: the same code, and no number worth keeping."""

SHAPES = {shape.name: shape for shape in (PAPER, TINY)}
