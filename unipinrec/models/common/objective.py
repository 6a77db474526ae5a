"""What the trainer minimises."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Losses:
    """What one step minimises, and its parts by name, for curves and checkpoints."""

    total: Tensor
    parts: dict[str, Tensor]

    def values(self) -> dict[str, Tensor]:
        """Return `total` and every part, without gradients."""
        return {name: loss.detach() for name, loss in {"total": self.total, **self.parts}.items()}


class Objective(nn.Module):
    """A model with its losses. Checkpoints hold its state, in which the model's begins with `model.`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Any) -> Losses:
        """Return the losses of a batch of the model's own examples."""
        raise NotImplementedError
