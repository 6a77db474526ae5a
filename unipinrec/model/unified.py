"""One transformer that retrieves and ranks (UniPinRec, arXiv 2606.00422).

Shapes: B requests, N events, T = N + 1 positions (BOS first), M appended events, K candidates, A actions,
L layers, H heads, D head width, E item width, C hidden width.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from unipinrec.config import ModelConfig
from unipinrec.model.embedder import ItemEmbedder
from unipinrec.model.heads import RankingHead, RetrievalHead
from unipinrec.model.tokens import Tokenizer
from unipinrec.model.trunk import Trunk


class Reading(NamedTuple):
    """What training takes from one pass over padded histories."""

    hidden_BTC: Tensor
    """Hidden states after BOS and after each event, for retrieval."""
    action_hidden_BNC: Tensor
    """Hidden states that predict each event's actions."""
    past_L2BHTD: Tensor
    """Keys and values for candidates."""
    action_known: bool
    """Whether the action of an event that is not masked went into its own prediction."""


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
        self._start_at_the_last_item()

    @torch.no_grad()
    def _start_at_the_last_item(self) -> None:
        """Let the first query embedding of a history be close to its last item's vector.

        Items that follow one another are often alike, so this is a far better place to start from than a
        random direction. An item's vector enters the hidden state as long as a normalised state is, and the
        head reads it back. An action enters it half as long as an item does: one that is far shorter is lost
        beside it, and with it how often a user does what.
        """
        item_dim, action_dim, width = self.config.item_dim, self.config.action_dim, self.config.width
        item_turn = nn.init.orthogonal_(torch.empty(width, item_dim))
        action_turn = nn.init.orthogonal_(torch.empty(width, action_dim))
        into_token = self.tokenizer.project.weight
        into_token[:, :item_dim] = item_turn * width**0.5
        into_token[:, item_dim : item_dim + action_dim] = 0.5 * action_turn * width**0.5
        nn.init.normal_(self.tokenizer.action.weight, std=action_dim**-0.5)
        nn.init.zeros_(self.tokenizer.action.bias)
        self.retrieval_head.project.straight.weight[:, :width] = item_turn.T

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

    @torch.jit.unused
    def read(
        self,
        vector_BNE: Tensor,
        actions_BN: Tensor,
        timestamp_BN: Tensor,
        surface_BN: Tensor,
        masked_BN: Tensor,
    ) -> Reading:
        """`encode` as training uses it."""
        hidden_BTC, past_L2BHTD = self.encode(vector_BNE, actions_BN, timestamp_BN, surface_BN, masked_BN)
        return Reading(hidden_BTC, hidden_BTC[:, 1:], past_L2BHTD, True)

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

    def feed_back(
        self,
        query_BE: Tensor,
        timestamp_B: Tensor,
        surface_B: Tensor,
        previous_timestamp_B: Tensor,
        past_L2HTD: list[Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Continue each history with a query embedding, as if it were an item whose action is masked.

        Returns hidden states [B, C], which the next query embeddings are read from, and the token's keys and
        values [L, 2, B, H, 1, D] (PinRec §2.5). `past_L2HTD` has one cache per request, exact in length.
        """
        previous_B = torch.tensor([past.size(3) - 1 for past in past_L2HTD], device=query_BE.device)
        token_B1C = self.tokenizer.events(
            query_BE.unsqueeze(1),
            torch.zeros_like(timestamp_B).unsqueeze(1),
            torch.ones_like(timestamp_B, dtype=torch.bool).unsqueeze(1),
            timestamp_B.unsqueeze(1),
            surface_B.unsqueeze(1),
            previous_B,
            previous_timestamp_B,
        )
        hidden_B1C, new_L2BH1D = self.trunk.next_over_slots(token_B1C, past_L2HTD)
        return hidden_B1C[:, 0], new_L2BH1D

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
