"""Streaming item frequencies in bounded memory.

Shapes: X item rows, D hash functions, W counters of each.
"""

import torch
from torch import Tensor, nn

PRIME = 2**31 - 1


class CountMinSketch(nn.Module):
    """Counts that are never too low, and too high by at most `e / W` of all events with chance `1 - exp(-D)`.

    Cormode and Muthukrishnan (2005); used for log Q as PinRec §2.6 says. The hash functions are
    `(a x + b) mod p mod W` with constants drawn from `seed`, so that a restored sketch counts on alike.
    """

    def __init__(self, depth: int, width: int, seed: int = 0) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        self.counter_DW: Tensor = nn.Buffer(torch.zeros(depth, width, dtype=torch.long))
        self.total: Tensor = nn.Buffer(torch.zeros((), dtype=torch.long))
        self.factor_D1: Tensor = nn.Buffer(torch.randint(1, PRIME, (depth, 1), generator=draw))
        self.shift_D1: Tensor = nn.Buffer(torch.randint(PRIME, (depth, 1), generator=draw))

    @torch.no_grad()
    def add(self, row_X: Tensor) -> None:
        """Count every occurrence."""
        self.counter_DW.scatter_add_(
            1, self._places(row_X), torch.ones_like(row_X).expand(len(self.factor_D1), -1)
        )
        self.total += len(row_X)

    def count(self, row_X: Tensor) -> Tensor:
        """Return the estimated counts, int64 [X]."""
        return self.counter_DW.gather(1, self._places(row_X)).amin(0)

    def frequency(self, row_X: Tensor) -> Tensor:
        """Return the estimated share of all events, [X]; an item never counted has that of half an event."""
        return self.count(row_X).clamp(min=0.5) / self.total.clamp(min=1)

    def _places(self, row_X: Tensor) -> Tensor:
        return (self.factor_D1 * row_X + self.shift_D1) % PRIME % self.counter_DW.size(1)
