"""What the trainer minimises, and how processes share it.

Shapes: B examples of a batch, b examples that one process computes.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Losses:
    """What one step minimises, and its parts by name, for curves and checkpoints."""

    total: Tensor
    parts: dict[str, Tensor]

    def values(self) -> dict[str, Tensor]:
        """Return `total` and every part, without gradients."""
        return {name: loss.detach() for name, loss in {"total": self.total, **self.parts}.items()}


@dataclass(frozen=True, slots=True)
class Part:
    """The examples of a batch that one process computes."""

    rows: slice
    """At least one example, since some kernels refuse an empty batch."""
    counted: bool
    """False where a batch has too few examples for every process: the one of `rows` is another's."""


@dataclass(frozen=True, slots=True)
class Share:
    """What one process computes of a step.

    Every process holds the whole batch. Random draws, targets, negatives and the numbers that means divide by
    are those of the whole batch, the same everywhere; only what is computed of an example is divided.
    """

    index: int = 0
    count: int = 1
    draw: torch.Generator = torch.default_generator
    """Of the CPU, and in the same state in all processes."""

    def part(self, examples: int) -> Part:
        """Return which examples of a batch this process computes."""
        start, stop = (examples * index // self.count for index in (self.index, self.index + 1))
        return Part(slice(start, max(stop, start + 1)), stop > start)

    def random(self, *shape: int) -> Tensor:
        """Return uniform numbers from 0 to 1 for the whole batch, on the CPU."""
        return torch.rand(shape, generator=self.draw, device="cpu")

    def order(self, count: int) -> Tensor:
        """Return the numbers below `count` in random order, on the CPU."""
        return torch.randperm(count, generator=self.draw, device="cpu")

    def integers(self, below: int, count: int) -> Tensor:
        """Return random numbers from 0 to `below - 1`, on the CPU."""
        return torch.randint(below, (count,), generator=self.draw, device="cpu")


WHOLE = Share()
"""Of a run in one process."""


class Objective(nn.Module, ABC):
    """A model with its losses. Checkpoints hold its state, in which the model's begins with `model.`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    @abstractmethod
    def forward(self, batch: Any, share: Share = WHOLE) -> Losses:
        """Return what a share adds to the losses of a batch; summed over all shares, they are the batch's."""
