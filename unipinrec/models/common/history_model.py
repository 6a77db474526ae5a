"""Models that read a history once, to retrieve from it or also to rank over it.

Shapes: B requests, N events, T = N + 1 positions (BOS first), K candidates, F feedviews of a user, or
features of affinity, A actions, L layers, H heads, D head width, E item width, C hidden width.
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


class Shown(NamedTuple):
    """What feedviews of each user show, F of them, each over the events before it."""

    vector_BKE: Tensor
    rate_BKA: Tensor
    """Base rates: `RankingHead.item_rates`, or what they were at the time."""
    feedview_BK: Tensor
    """Which of the feedviews shows the candidate, from 0 on."""
    timestamp_BF: Tensor
    surface_BF: Tensor
    length_BF: Tensor
    """Events of the history before each."""


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

    def score_padded(self, shown: Shown, events: Events, reading: Reading) -> Tensor:
        """Return action logits [B, K, A] of what was shown, over a padded batch of histories."""
        time_BK, surface_BK, length_BK = (
            column_BF.gather(1, shown.feedview_BK)
            for column_BF in (shown.timestamp_BF, shown.surface_BF, shown.length_BF)
        )
        token_BKC = self.tokenizer.candidates(shown.vector_BKE, time_BK, surface_BK)
        past_L2BHTD, length_BK1 = reading.past_L2BHTD, length_BK.unsqueeze(2)
        position_T = torch.arange(past_L2BHTD.size(4), device=length_BK.device)
        hidden_BKC = self.trunk.candidates(
            token_BKC, past_L2BHTD, position_T > self.positions_per_event * length_BK1
        )
        # What was counted is not to be rounded, whatever the trunk computes in.
        with torch.autocast(hidden_BKC.device.type, enabled=False):
            seen_BKN = torch.arange(events.actions_BN.size(1), device=length_BK.device) < length_BK1
            affinity_BKF = self._affinity(shown.vector_BKE, time_BK, events, seen_BKN)
            similarity_BKF = torch.matmul(shown.vector_BKE, self._queries(shown, reading).transpose(1, 2))
            similarity_BK1 = similarity_BKF.gather(2, shown.feedview_BK.unsqueeze(2))
            logit_BKA: Tensor = self.ranking_head(hidden_BKC, affinity_BKF, shown.rate_BKA, similarity_BK1)
        return logit_BKA

    def score_events(self, rate_BNA: Tensor, events: Events, reading: Reading) -> Tensor:
        """Return action logits [B, N, A] of a history's own events, of which each sees those before it.

        Their similarity to a query embedding is left at 0: a head's call for every event costs too much.
        """
        hidden_BNC, time_BN = reading.action_hidden_BNC, events.timestamp_BN
        with torch.autocast(hidden_BNC.device.type, enabled=False):
            number = time_BN.size(1)
            seen_1NN = torch.ones(1, number, number, dtype=torch.bool, device=time_BN.device).tril(-1)
            affinity_BNF = self._affinity(events.vector_BNE, time_BN, events, seen_1NN)
            similarity_BN1 = torch.zeros_like(affinity_BNF[..., :1])
            logit_BNA: Tensor = self.ranking_head(hidden_BNC, affinity_BNF, rate_BNA, similarity_BN1)
        return logit_BNA

    def _affinity(self, vector_BKE: Tensor, time_BK: Tensor, events: Events, seen_BKN: Tensor) -> Tensor:
        kind_BNX = self.ranking_head.affinity.kinds(events.actions_BN, events.masked_BN)
        affinity_BKF: Tensor = self.ranking_head.affinity(
            vector_BKE, time_BK, events.vector_BNE, kind_BNX, events.timestamp_BN, seen_BKN
        )
        return affinity_BKF

    def _queries(self, shown: Shown, reading: Reading) -> Tensor:
        """The immediate query embedding [B, F, E] of each feedview's request, for no action in particular."""
        length_BF = shown.length_BF
        hidden_BFC = reading.hidden_BTC.gather(
            1, length_BF.unsqueeze(2).expand(-1, -1, reading.hidden_BTC.size(2))
        )
        query_BFE: Tensor = self.retrieval_head(
            hidden_BFC,
            shown.timestamp_BF,
            shown.surface_BF,
            torch.full_like(length_BF, self.config.num_actions),
            torch.zeros_like(length_BF),
        )
        return query_BFE
