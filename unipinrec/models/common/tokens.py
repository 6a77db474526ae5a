"""Events and candidates to trunk inputs.

Shapes: ... any leading axes, B requests, N events, K candidates, A actions, E item width, C hidden width.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from unipinrec.models.common.features import AbsoluteTime, EventGap, multi_hot_actions
from unipinrec.models.config import ModelConfig


class Events(NamedTuple):
    """Whole histories, padded at the end."""

    vector_BNE: Tensor
    actions_BN: Tensor
    timestamp_BN: Tensor
    surface_BN: Tensor
    masked_BN: Tensor
    """Whose actions are hidden."""


class Tokenizer(nn.Module):
    """Joins item vector, actions and time on the feature axis and projects them (PinRec §2.3).

    An event's token depends on that event and the one before it alone, so appending events to a history
    changes no earlier token.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.num_actions = config.num_actions
        self.action = nn.Linear(config.num_actions + 1, config.action_dim)
        self.absolute_time = AbsoluteTime(config.time_periods_s)
        self.gap = EventGap()
        joined = config.item_dim + config.action_dim + self.absolute_time.size + EventGap.size
        self.project = nn.Linear(joined, config.width)
        self.surface = nn.Embedding(config.num_surfaces, config.width)
        self.position = nn.Embedding(config.max_positions, config.width)
        self.bos = nn.Parameter(torch.randn(config.width) * 0.02)
        self.candidate_position = nn.Parameter(torch.randn(config.width) * 0.02)
        nn.init.normal_(self.surface.weight, std=0.02)
        nn.init.normal_(self.position.weight, std=0.02)

    def begin(self, batch: int) -> Tensor:
        """Return the BOS token at position 0, [B, 1, C]: what an empty history consists of."""
        return (self.bos + self.position.weight[0]).expand(batch, 1, -1)

    def events(self, events: Events) -> Tensor:
        """Return tokens [B, N, C] of whole histories; BOS, which stands before them, is not among them."""
        vector_BNE, actions_BN, time_BN, surface_BN, masked_BN = events
        previous_BN = torch.cat([time_BN[:, :1], time_BN[:, :-1]], dim=1)
        position_BN = torch.arange(1, vector_BNE.size(1) + 1, device=vector_BNE.device).expand_as(actions_BN)
        return self.packed(vector_BNE, actions_BN, masked_BN, time_BN, previous_BN, surface_BN, position_BN)

    def packed(
        self,
        vector: Tensor,
        actions: Tensor,
        masked: Tensor,
        timestamp: Tensor,
        previous_timestamp: Tensor,
        surface: Tensor,
        position: Tensor,
    ) -> Tensor:
        """Return tokens [..., C] of any positions [...]. Position 0 is BOS, whatever else is said of it."""
        gap = self.gap(timestamp - previous_timestamp, position > 1)
        token = self._join(vector, actions, masked, timestamp, gap, surface)
        token = token + self.position(position.clamp(max=self.position.num_embeddings - 1))
        return torch.where((position == 0).unsqueeze(-1), self.begin(1)[0], token)

    def candidates(self, vector_BKE: Tensor, timestamp_BK: Tensor, surface_BK: Tensor) -> Tensor:
        """Return tokens [B, K, C] of candidates: MASK, one position, and the time and the surface of the
        request (UniPinRec §1.2), which may be [B, 1]."""
        batch, count = vector_BKE.size(0), vector_BKE.size(1)
        timestamp_BK = timestamp_BK.expand(batch, count)
        masked_BK = torch.ones_like(timestamp_BK, dtype=torch.bool)
        gap_BKF = self.gap(torch.zeros_like(timestamp_BK), ~masked_BK)
        token_BKC = self._join(
            vector_BKE,
            torch.zeros_like(timestamp_BK),
            masked_BK,
            timestamp_BK,
            gap_BKF,
            surface_BK.expand(batch, count),
        )
        return token_BKC + self.candidate_position

    def _join(
        self,
        vector: Tensor,
        actions: Tensor,
        masked: Tensor,
        timestamp: Tensor,
        gap: Tensor,
        surface: Tensor,
    ) -> Tensor:
        # Features have the dtype of the layers that make them, which may be finer than the projection's.
        dtype = self.action.weight.dtype
        hot = multi_hot_actions(actions, masked, self.num_actions).to(dtype)
        time = self.absolute_time(timestamp, dtype)
        joined = torch.cat([vector.to(dtype), self.action(hot), time, gap.to(dtype)], dim=-1)
        return self.project(joined.to(self.project.weight.dtype)) + self.surface(surface)
