"""What a token knows besides its item: actions, absolute time, time since the event before.

Shapes: ... any leading axes, B requests, N events, A actions, F features.
"""

import math

import torch
from torch import Tensor, nn

LONGEST_GAP_S = 30 * 86_400
"""Gaps between events are cut here: a month or a year apart makes no difference that data could teach."""

GAP_FREQUENCIES = 8


def multi_hot_actions(actions: Tensor, masked: Tensor, num_actions: int) -> Tensor:
    """Turn action bitmasks [...] into multi-hot [..., A + 1]; the last class is MASK (UniPinRec §1.2).

    A masked position has the MASK class alone, which differs from an event without any action.
    """
    bit = torch.arange(num_actions, device=actions.device)
    hot = (actions.unsqueeze(-1) >> bit) & 1
    hot = hot * (~masked).unsqueeze(-1)
    return torch.cat([hot, masked.unsqueeze(-1).to(hot.dtype)], dim=-1)


class AbsoluteTime(nn.Module):
    """Sinusoids of unix seconds over several periods (PinRec §2.3). Output [..., F]."""

    def __init__(self, periods_s: tuple[int, ...]) -> None:
        super().__init__()
        self.size = 2 * len(periods_s)
        self.period: Tensor = nn.Buffer(torch.tensor(periods_s, dtype=torch.long), persistent=False)

    def forward(self, timestamp: Tensor, dtype: torch.dtype) -> Tensor:
        """Encode integer timestamps [...]; the remainder is taken in integers, where it is exact."""
        elapsed = torch.remainder(timestamp.unsqueeze(-1), self.period)
        angle = elapsed.to(dtype) / self.period.to(dtype) * (2 * math.pi)
        return torch.cat([angle.sin(), angle.cos()], dim=-1)


class EventGap(nn.Module):
    """Log-scale time since the event before, with learnable phases (PinRec §2.3). Output [..., F]."""

    size = GAP_FREQUENCIES

    def __init__(self) -> None:
        super().__init__()
        self.longest_s = LONGEST_GAP_S
        longest = math.log1p(LONGEST_GAP_S)
        frequency = torch.arange(1, GAP_FREQUENCIES + 1) * (math.pi / longest)
        self.frequency: Tensor = nn.Buffer(frequency, persistent=False)
        self.phase = nn.Parameter(torch.zeros(GAP_FREQUENCIES))

    def forward(self, gap_s: Tensor, has_previous: Tensor) -> Tensor:
        """Encode gaps in seconds [...]; positions without an event before them get zeros."""
        scale = torch.log1p(gap_s.clamp(min=0, max=self.longest_s).to(self.phase.dtype))
        wave = torch.sin(scale.unsqueeze(-1) * self.frequency.to(self.phase.dtype) + self.phase)
        return wave * has_previous.unsqueeze(-1).to(wave.dtype)
