"""One transformer that retrieves and ranks (UniPinRec, arXiv 2606.00422).

Shapes: B requests, N events, T = N + 1 positions (BOS first), M appended events, K candidates, A actions,
L layers, H heads, D head width, E item width, C hidden width.
"""

import torch
from torch import Tensor, nn

from unipinrec.config import ModelConfig
from unipinrec.model.embedder import ItemEmbedder
from unipinrec.model.heads import RankingHead, RetrievalHead
from unipinrec.model.tokens import Tokenizer
from unipinrec.model.trunk import Trunk


class UnifiedRecommender(nn.Module):
    """Embedder, tokens, trunk and both heads.

    `encode` runs once per history; `retrieval_head` and `score` reuse what it returns; `append` continues it.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedder = ItemEmbedder(config)
        self.tokenizer = Tokenizer(config)
        self.trunk = Trunk(config)
        self.retrieval_head = RetrievalHead(config)
        self.ranking_head = RankingHead(config)

    def encode(
        self,
        vector_BNE: Tensor,
        actions_BN: Tensor,
        timestamp_BN: Tensor,
        surface_BN: Tensor,
        masked_BN: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Encode padded histories (padding at the end) behind a BOS token.

        Returns hidden states [B, T, C] and keys and values [L, 2, B, H, T, D]. Positions of padding hold
        numbers that no real position depends on.
        """
        if masked_BN is None:
            masked_BN = torch.zeros_like(actions_BN, dtype=torch.bool)
        nothing_B = torch.zeros_like(actions_BN[:, :1]).sum(1)
        token_BNC = self.tokenizer.events(
            vector_BNE, actions_BN, masked_BN, timestamp_BN, surface_BN, nothing_B, nothing_B
        )
        begin_B1C = self.tokenizer.begin(vector_BNE.size(0))
        return self.trunk.history(torch.cat([begin_B1C, token_BNC], dim=1))

    def append(
        self,
        vector_BME: Tensor,
        actions_BM: Tensor,
        timestamp_BM: Tensor,
        surface_BM: Tensor,
        previous_timestamp_B: Tensor,
        past_L2BHTD: Tensor,
        past_length_B: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Continue histories of `past_length_B` cached positions (BOS counted) with M more events.

        Returns hidden states [B, M, C] and the new keys and values [L, 2, B, H, M, D]: the same as encoding
        the longer history again.
        """
        token_BMC = self.tokenizer.events(
            vector_BME,
            actions_BM,
            torch.zeros_like(actions_BM, dtype=torch.bool),
            timestamp_BM,
            surface_BM,
            past_length_B - 1,
            previous_timestamp_B,
        )
        return self.trunk.appended(token_BMC, past_L2BHTD, past_length_B)

    def score(
        self, candidate_BKE: Tensor, timestamp_B: Tensor, surface_B: Tensor, past_L2HTD: list[Tensor]
    ) -> Tensor:
        """Action logits [B, K, A] of candidates over each request's cached history, exact in length."""
        token_BKC = self.tokenizer.candidates(candidate_BKE, timestamp_B, surface_B)
        return self.ranking_head(self.trunk.candidates_over_slots(token_BKC, past_L2HTD))

    def score_padded(
        self,
        candidate_BKE: Tensor,
        timestamp_B: Tensor,
        surface_B: Tensor,
        past_L2BHTD: Tensor,
        length_B: Tensor,
    ) -> Tensor:
        """Action logits [B, K, A] over a padded batch of histories of `length_B` events, as training does."""
        token_BKC = self.tokenizer.candidates(candidate_BKE, timestamp_B, surface_B)
        position = torch.arange(past_L2BHTD.size(4), device=length_B.device)
        padding_BT = position > length_B.unsqueeze(1)
        return self.ranking_head(self.trunk.candidates(token_BKC, past_L2BHTD, padding_BT))
