"""Models that read a history once, to retrieve from it or also to rank over it.

Shapes: B requests, N events, T = N + 1 positions (BOS first), K candidates, A actions, L layers, H heads,
D head width, E item width, C hidden width.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from unipinrec.models.common.embedder import ItemEmbedder
from unipinrec.models.common.heads import RankingHead, RetrievalHead
from unipinrec.models.common.tokens import Events, Tokenizer
from unipinrec.models.common.trunk import Trunk
from unipinrec.models.config import JointConfig, ModelConfig


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


class HistoryModel(nn.Module):
    """Base of models that read a history with the trunk; each adds its heads.

    `retrieval_head` takes hidden states, request times, surfaces, outcomes and time offsets, and returns
    query embeddings as `RetrievalHead` does.
    """

    def __init__(self, config: ModelConfig, time_offsets_s: tuple[int, ...] = (0,)) -> None:
        super().__init__()
        self.config = config
        self.time_offsets_s = time_offsets_s
        self.embedder = ItemEmbedder(config)
        self.tokenizer = Tokenizer(config)
        self.trunk = Trunk(config)
        self.retrieval_head: nn.Module

    @torch.no_grad()
    def turn_items_into_tokens(self) -> Tensor:
        """Let an item's vector enter its token turned, and as long as a normalised state is.

        An action enters half as long as an item does: one that is far shorter is lost beside it, and with it
        how often a user does what. Returns the turn [C, E], by which a head can read the vector back.
        """
        item_dim, action_dim, width = self.config.item_dim, self.config.action_dim, self.config.width
        item_turn = nn.init.orthogonal_(torch.empty(width, item_dim))
        action_turn = nn.init.orthogonal_(torch.empty(width, action_dim))
        into_token = self.tokenizer.project.weight
        into_token[:, :item_dim] = item_turn * width**0.5
        into_token[:, item_dim : item_dim + action_dim] = 0.5 * action_turn * width**0.5
        nn.init.normal_(self.tokenizer.action.weight, std=action_dim**-0.5)
        nn.init.zeros_(self.tokenizer.action.bias)
        return item_turn

    def encode(self, events: Events) -> tuple[Tensor, Tensor]:
        """Return hidden states [B, T, C] and keys and values [L, 2, B, H, T, D], of BOS and each event.

        Positions of padding hold numbers that no real position depends on.
        """
        reading = self.read(events)
        return reading.hidden_BTC, reading.past_L2BHTD

    def read(self, events: Events) -> Reading:
        """Encode as training does, with the actions of the masked events hidden."""
        token_BNC = self.tokenizer.events(events)
        begin_B1C = self.tokenizer.begin(len(token_BNC))
        hidden_BTC, past_L2BHTD = self.trunk.history(torch.cat([begin_B1C, token_BNC], dim=1))
        return Reading(hidden_BTC, hidden_BTC[:, 1:], past_L2BHTD, True)


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
