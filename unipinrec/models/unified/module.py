"""One transformer that retrieves and ranks (UniPinRec, arXiv 2606.00422).

Shapes: B requests, N events, T = N + 1 positions (BOS first), X positions of several requests one after
another, K candidates, A actions, L layers, H heads, D head width, E item width, C hidden width.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from unipinrec.config import ModelConfig
from unipinrec.models.common.heads import RankingHead, RetrievalHead
from unipinrec.models.common.tokens import Tokenizer
from unipinrec.models.common.trunk import Trunk
from unipinrec.models.unified.embedder import ItemEmbedder


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

    `encode` runs over padded batches of whole histories, `extend` serves: it fills slots once per history and
    continues them. `retrieval_head` and `score` reuse what either leaves.
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
        token_BNC = self.tokenizer.events(vector_BNE, actions_BN, masked_BN, timestamp_BN, surface_BN)
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

    def extend(
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
        """Continue the history in each slot [L, 2, H, S, D] by the request's events, in place.

        The tokens of all requests stand one after another: request b has `count[b]` from row `first[b]` on,
        behind the `cached[b]` positions that its slot holds. A whole history starts with position 0, BOS.
        A query embedding that is fed back is an event whose action is masked (PinRec §2.5).

        Returns hidden states [B', C] after each request's last position, B' being B rounded up to `ROW_STEP`;
        the same as encoding each whole history.
        """
        token_XC = self.tokenizer.packed(
            vector_XE, actions_X, masked_X, timestamp_X, previous_timestamp_X, surface_X, position_X
        )
        return self.trunk.extended(token_XC, first, cached, count, slots)

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
