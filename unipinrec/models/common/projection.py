"""The projection that item vectors and query embeddings share.

Shapes: ... any leading axes.
"""

import torch
from torch import Tensor, nn


class Projection(nn.Module):
    """A linear path plus an MLP that adds nothing at first.

    What goes in far apart comes out far apart from the first step on. With PyTorch's own initialisation the
    MLP's bias would put everything near one point, and training would spend its first epochs undoing that.
    """

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.straight = nn.Linear(inputs, outputs, bias=False)
        self.inner = nn.Linear(inputs, hidden)
        self.outer = nn.Linear(hidden, outputs)
        nn.init.orthogonal_(self.straight.weight)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Turn [..., inputs] into [..., outputs]."""
        return self.straight(features) + self.outer(torch.nn.functional.gelu(self.inner(features)))
