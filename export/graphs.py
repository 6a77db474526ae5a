"""The four graphs of a bundle, as modules that TorchScript can compile.

Shapes: B requests, N events, T = N + 1 positions (BOS first), K candidates, A actions,
L layers, H heads, D head width, E item width, C hidden width.
"""

import torch
from torch import Tensor, nn

from unipinrec.model import UnifiedRecommender


class EncoderGraph(nn.Module):
    """Padded histories to the last real hidden state and the keys and values of every layer."""

    def __init__(self, model: UnifiedRecommender) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        vector_BNE: Tensor,
        actions_BN: Tensor,
        timestamp_BN: Tensor,
        surface_BN: Tensor,
        length_B: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Returns hidden [B, C] after `length_B` events, and the cache [B, L, 2, H, T, D]."""
        hidden_BTC, past_L2BHTD = self.model.encode(vector_BNE, actions_BN, timestamp_BN, surface_BN)
        last_B = torch.arange(length_B.size(0), device=length_B.device)
        return hidden_BTC[last_B, length_B], past_L2BHTD.permute(2, 0, 1, 3, 4, 5)


class DecoderGraph(nn.Module):
    """A query embedding fed back behind cached keys and values."""

    def __init__(self, model: UnifiedRecommender) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        query_BE: Tensor,
        timestamp_B: Tensor,
        surface_B: Tensor,
        previous_timestamp_B: Tensor,
        past_L2HTD: list[Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Returns hidden [B, C] after it, and its keys and values [B, L, 2, H, 1, D].

        Each request's cache [L, 2, H, T, D] is exact in length.
        """
        hidden_BC, new_L2BH1D = self.model.feed_back(
            query_BE, timestamp_B, surface_B, previous_timestamp_B, past_L2HTD
        )
        return hidden_BC, new_L2BH1D.permute(2, 0, 1, 3, 4, 5)


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
