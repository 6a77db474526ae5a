"""The three graphs of a bundle, as modules that TorchScript can compile.

Shapes: B requests, X positions of several requests one after another, T cached positions, K candidates,
A actions, L layers, H heads, D head width, E item width, C hidden width.
"""

import torch
from torch import Tensor, nn

from unipinrec.models.unified import UnifiedRecommender


class EncoderGraph(nn.Module):
    """Events to the hidden states after them; their keys and values go into the slots that they continue."""

    def __init__(self, model: UnifiedRecommender) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        vector_XE: Tensor,
        actions_X: Tensor,
        masked_X: Tensor,
        timestamp_X: Tensor,
        previous_timestamp_X: Tensor,
        surface_X: Tensor,
        position_X: Tensor,
        first: list[int],
        cached: list[int],
        count: list[int],
        slots: list[Tensor],
    ) -> Tensor:
        """As `UnifiedRecommender.extend`."""
        return self.model.extend(
            vector_XE,
            actions_X,
            masked_X,
            timestamp_X,
            previous_timestamp_X,
            surface_X,
            position_X,
            first,
            cached,
            count,
            slots,
        )


class RetrievalHeadGraph(nn.Module):
    """Hidden states, request context, outcomes and time offsets to query embeddings."""

    def __init__(self, model: UnifiedRecommender) -> None:
        super().__init__()
        self.head = model.retrieval_head

    def forward(
        self, hidden_BC: Tensor, timestamp_B: Tensor, surface_B: Tensor, outcome_B: Tensor, offset_B: Tensor
    ) -> Tensor:
        """Returns unit vectors [B, E]."""
        return self.head(hidden_BC, timestamp_B, surface_B, outcome_B, offset_B)


class RankingHeadGraph(nn.Module):
    """Candidates over cached histories to action probabilities."""

    def __init__(self, model: UnifiedRecommender) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, candidate_BKE: Tensor, timestamp_B: Tensor, surface_B: Tensor, past_L2HTD: list[Tensor]
    ) -> Tensor:
        """Returns probabilities [B, K, A]; each request's cache [L, 2, H, T, D] is exact in length."""
        return torch.sigmoid(self.model.score(candidate_BKE, timestamp_B, surface_B, past_L2HTD))
