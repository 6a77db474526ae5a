"""SASRec (Kang and McAuley, 2018) with a full softmax, over this project's trunk.

Shapes: B requests, N events, T = N + 1 positions, E item width, C hidden width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from unipinrec.config import ModelConfig, TrainingConfig
from unipinrec.models.common.heads import RetrievalHead
from unipinrec.models.unified import UnifiedRecommender
from unipinrec.models.unified.module import Reading


class SASRec(UnifiedRecommender):
    """Item ids and learned positions alone: no actions, times, surfaces, attributes or content.

    Query embeddings know neither request time nor surface nor outcome. Cosine scores with a learned
    temperature are this project's; the original takes plain inner products.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(
            config.model_copy(update={"num_attributes": 0, "max_attributes": 0, "content_dim": 0})
        )
        self.retrieval_head = HiddenAlone(config)

    @override
    def encode(
        self,
        vector_BNE: Tensor,
        actions_BN: Tensor,
        timestamp_BN: Tensor,
        surface_BN: Tensor,
        masked_BN: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Hidden states [B, T, C] and keys and values, of item ids in their order."""
        nothing_BN = torch.zeros_like(actions_BN)
        return super().encode(vector_BNE, nothing_BN, nothing_BN, nothing_BN, torch.ones_like(nothing_BN) > 0)

    @override
    def read(
        self,
        vector_BNE: Tensor,
        actions_BN: Tensor,
        timestamp_BN: Tensor,
        surface_BN: Tensor,
        masked_BN: Tensor,
    ) -> Reading:
        """`encode` as training uses it; there is no ranking."""
        hidden_BTC, past = self.encode(vector_BNE, actions_BN, timestamp_BN, surface_BN)
        return Reading(hidden_BTC, hidden_BTC[:, 1:], past, True)


class HiddenAlone(RetrievalHead):
    """A query embedding that is a linear map of the hidden state."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.linear = nn.Linear(config.width, config.item_dim)

    @override
    def forward(
        self, hidden: Tensor, timestamp: Tensor, surface: Tensor, outcome: Tensor, offset: Tensor
    ) -> Tensor:
        """Hidden states [..., C] to unit vectors [..., E]."""
        return F.normalize(self.linear(hidden), dim=-1)


def sasrec_training(config: TrainingConfig) -> TrainingConfig:
    """The same budget with SASRec's loss: next item alone, contrasted with the whole catalogue."""
    changes = {"full_softmax": True, "ranking_loss_weight": 0.0, "outcome_probability": 0.0}
    return config.model_copy(update=changes)
