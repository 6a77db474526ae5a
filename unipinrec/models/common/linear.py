"""A linear layer of which a part of the outputs can be asked for.

Shapes: ... any leading axes, I inputs, O outputs.
"""

import torch.nn.functional as F
from torch import Tensor, nn


class PartedLinear(nn.Linear):
    """A linear layer that also gives some of its outputs without the cost of the others."""

    def part(self, features: Tensor, begin: int, end: int) -> Tensor:
        """Turn features [..., I] into outputs `begin` to `end - 1`, [..., end - begin]."""
        return F.linear(features, self.weight[begin:end], self.bias[begin:end])
