"""Events and candidates to trunk inputs.

Shapes: B requests, N events, K candidates, A actions, E item width, C hidden width.
"""

import torch
from torch import Tensor, nn

from unipinrec.config import ModelConfig
from unipinrec.model.features import AbsoluteTime, EventGap, multi_hot_actions


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
        """The BOS token at position 0, [B, 1, C]: what an empty history consists of."""
        return (self.bos + self.position.weight[0]).expand(batch, 1, -1)

    def events(
        self,
        vector_BNE: Tensor,
        actions_BN: Tensor,
        masked_BN: Tensor,
        timestamp_BN: Tensor,
        surface_BN: Tensor,
        start_B: Tensor,
        previous_timestamp_B: Tensor,
    ) -> Tensor:
        """Tokens [B, N, C] of consecutive events, which `start_B` events precede.

        `previous_timestamp_B` is the time of the last event before them; without meaning where none does.
        """
        previous_BN = torch.cat([previous_timestamp_B.unsqueeze(1), timestamp_BN[:, :-1]], dim=1)
        order_BN = start_B.unsqueeze(1) + torch.arange(vector_BNE.size(1), device=start_B.device)
        gap_BNF = self.gap(timestamp_BN - previous_BN, order_BN > 0)
        token_BNC = self._join(vector_BNE, actions_BN, masked_BN, timestamp_BN, gap_BNF, surface_BN)
        position_BN = (order_BN + 1).clamp(max=self.position.num_embeddings - 1)
        return token_BNC + self.position(position_BN)

    def candidates(self, vector_BKE: Tensor, timestamp_B: Tensor, surface_B: Tensor) -> Tensor:
        """Tokens [B, K, C] of candidates: all with MASK, one position, time and surface (UniPinRec §1.2)."""
        batch, count = vector_BKE.size(0), vector_BKE.size(1)
        timestamp_BK = timestamp_B.unsqueeze(1).expand(batch, count)
        masked_BK = torch.ones_like(timestamp_BK, dtype=torch.bool)
        gap_BKF = self.gap(torch.zeros_like(timestamp_BK), ~masked_BK)
        token_BKC = self._join(
            vector_BKE,
            torch.zeros_like(timestamp_BK),
            masked_BK,
            timestamp_BK,
            gap_BKF,
            surface_B.unsqueeze(1).expand(batch, count),
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
        hot = multi_hot_actions(actions, masked, self.num_actions).to(vector.dtype)
        time = self.absolute_time(timestamp, vector.dtype)
        joined = torch.cat([vector, self.action(hot), time, gap.to(vector.dtype)], dim=-1)
        return self.project(joined) + self.surface(surface)
