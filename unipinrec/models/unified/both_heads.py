"""What the two heads make of candidates, once the trunk has read them.

Shapes: B requests, K candidates, A actions, F features of affinity, E item width, C hidden width.
"""

from typing import Protocol

import torch
from torch import Tensor, nn

from unipinrec.models.common.heads import RankingHead, RetrievalHead
from unipinrec.models.unified.config import UnifiedConfig


class TwoHeaded(Protocol):
    """A model that retrieves and ranks."""

    config: UnifiedConfig
    retrieval_head: RetrievalHead
    ranking_head: RankingHead


class BothHeads(nn.Module):
    """The ranking head, told how similar candidates are to the immediate query embedding of their request."""

    def __init__(self, model: TwoHeaded) -> None:
        super().__init__()
        self.no_action = model.config.num_actions
        self.retrieval_head, self.ranking_head = model.retrieval_head, model.ranking_head

    def forward(
        self,
        hidden_BKC: Tensor,
        affinity_BKF: Tensor,
        candidate_BKE: Tensor,
        item_row_BK: Tensor,
        timestamp_B: Tensor,
        surface_B: Tensor,
        hidden_BC: Tensor,
    ) -> Tensor:
        """Return probabilities [B, K, A]; `hidden_BC` is after each request's last event, and `item_row_BK`
        is -1 where an item has no base rates of its own."""
        outcome_B = torch.full_like(surface_B, self.no_action)
        offset_B = torch.zeros_like(surface_B)
        query_BE = self.retrieval_head(hidden_BC, timestamp_B, surface_B, outcome_B, offset_B)
        similarity_BK1 = torch.matmul(candidate_BKE, query_BE.unsqueeze(2))
        rate_BKA = self.ranking_head.item_rates(item_row_BK)
        return torch.sigmoid(self.ranking_head(hidden_BKC, affinity_BKF, rate_BKA, similarity_BK1))
