"""A model that reads a history once, retrieves from it and ranks over it.

Shapes: B requests, T positions (BOS first), K candidates, A actions, L layers, H heads, D head width,
E item width, C hidden width.
"""

import torch
from torch import Tensor

from unipinrec.models.common.heads import RankingHead, RetrievalHead
from unipinrec.models.common.history_model import HistoryModel
from unipinrec.models.config import JointConfig


class JointModel(HistoryModel):
    """Base of models with both heads."""

    positions_per_event = 1
    """Keys and values that an event has."""

    def __init__(self, config: JointConfig, time_offsets_s: tuple[int, ...] = (0,)) -> None:
        super().__init__(config, time_offsets_s)
        self.retrieval_head: RetrievalHead = RetrievalHead(config, len(time_offsets_s))
        self.ranking_head = RankingHead(config)
        self._start_at_the_last_item()

    @torch.no_grad()
    def _start_at_the_last_item(self) -> None:
        """Let the first query embedding of a history be close to its last item's vector.

        Items that follow one another are often alike, so this is a far better place to start from than a
        random direction. The head reads back what enters the hidden state as an item's token.
        """
        item_turn_CE = self.turn_items_into_tokens()
        self.retrieval_head.project.straight.weight[:, : self.config.width] = item_turn_CE.T

    def score_padded(
        self,
        candidate_BKE: Tensor,
        timestamp_B: Tensor,
        surface_B: Tensor,
        past_L2BHTD: Tensor,
        length_B: Tensor,
    ) -> Tensor:
        """Return action logits [B, K, A] over a padded batch of histories of `length_B` events."""
        token_BKC = self.tokenizer.candidates(candidate_BKE, timestamp_B, surface_B)
        position = torch.arange(past_L2BHTD.size(4), device=length_B.device)
        padding_BT = position > self.positions_per_event * length_B.unsqueeze(1)
        return self.ranking_head(self.trunk.candidates(token_BKC, past_L2BHTD, padding_BT))
