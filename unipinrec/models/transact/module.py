"""TransAct and TransAct V2: how likely each action on each candidate is.

Shapes: R requests, N rows of a sequence of all requests, n rows of one (padded), C candidates, A actions, V
items, E item width, W width of search vectors, X any rows, U distinct ones, T tokens, D token width.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from unipinrec.models.common.embedder import ItemEmbedder
from unipinrec.models.transact.batch import NearestRows, PackedEvents, RequestBatch
from unipinrec.models.transact.config import SecondRankerConfig, TransactConfig, TransactV2Config
from unipinrec.models.transact.crossing import Heads
from unipinrec.models.transact.encoder_v1 import EventEncoder
from unipinrec.models.transact.encoder_v2 import LifelongEncoder, Tokens, action_embedding
from unipinrec.models.transact.interests import Interests, NearestActions
from unipinrec.models.transact.nearest import latest, nearest_rows


class SecondRanker(nn.Module):
    """What both have in common: item vectors, and heads."""

    heads: Heads

    def __init__(self, config: SecondRankerConfig) -> None:
        super().__init__()
        self.config = config
        self.embedder = ItemEmbedder(config)
        self.computes_vectors = True
        """Whether the embedder computes vectors, each distinct one once, and does not look them up."""
        self.interests = Interests(config)

    def vectors(self, item_row_X: Tensor, hidden_V: Tensor | None = None) -> Tensor:
        """Return item vectors [X, E]; `hidden_V` marks items without id.

        They are as long as their width is wide: attention and crossing multiply numbers near 1, not unit
        vectors'.
        """
        scale = self.config.item_dim**0.5
        if not self.computes_vectors:
            vector_XE: Tensor = self.embedder(item_row_X)
            return vector_XE * scale
        row_U, place_X = torch.unique(item_row_X, return_inverse=True)
        vector_UE: Tensor = self.embedder(row_U, None if hidden_V is None else hidden_V[row_U])
        return embedding(place_X, vector_UE * scale)


class TransAct(SecondRanker):
    """The latest events, fused with the candidate (arXiv 2306.00248)."""

    def __init__(self, config: TransactConfig) -> None:
        super().__init__(config)
        self.config: TransactConfig = config
        self.actions = nn.Parameter(0.5 * torch.randn(config.num_actions, config.action_dim))
        self.encoder = EventEncoder(config)
        self.heads = Heads(config, self.encoder.size, self.interests.size)

    def forward(
        self, requests: RequestBatch, hidden_s_R: Tensor | None = None, hidden_V: Tensor | None = None
    ) -> Tensor:
        """Return logits [C, A]. Events of the last `hidden_s_R` seconds before a request are left out."""
        events, request_C = requests.events, requests.request_of_candidate
        candidate_CE = self.vectors(requests.candidate_item_C, hidden_V)
        vector_NE = self.vectors(events.item_row_N, hidden_V)
        parts = [action_embedding(events.actions_N, self.actions), vector_NE]
        place_Rn, length_R = newest_first(events, requests.request_time_R, self.config.max_events, hidden_s_R)
        # A row behind the last one stands for the padding of a batch without events.
        event_NS = nn.functional.pad(torch.cat(parts, dim=1), (0, 0, 0, 1))
        encoded_CO = self.encoder(event_NS[place_Rn], length_R, candidate_CE, request_C)
        shown_NE = self.vectors(requests.impressions.item_row_N, hidden_V)
        near_CK = self.interests(requests, (vector_NE, shown_NE), candidate_CE, hidden_s_R)
        logit_CA: Tensor = self.heads(encoded_CO, near_CK, requests, candidate_CE)
        return logit_CA


def newest_first(
    events: PackedEvents, request_time_R: Tensor, most: int, hidden_s_R: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return where each request's events are, the newest first, [R, n], and how many there are, [R].

    Of request r, events later than `request_time_R - hidden_s_R` do not count, as if they had not been: those
    before them move up.
    """
    seen_R = events.lengths
    if hidden_s_R is not None:
        request_N = torch.repeat_interleave(seen_R, output_size=len(events.item_row_N))
        seen_N = events.timestamp_N <= (request_time_R - hidden_s_R)[request_N]
        seen_R = torch.zeros_like(seen_R).index_add(0, request_N, seen_N.to(seen_R.dtype))
    length_R = seen_R.clamp(max=most)
    back_n = torch.arange(max(int(length_R.max()), 1), device=length_R.device)
    place_Rn = (events.offset_R1[:-1] + seen_R - 1).unsqueeze(1) - back_n
    return place_Rn * (back_n < length_R.unsqueeze(1)), length_R


class AskedTokens(NamedTuple):
    """What TransAct V2 reads for the candidates."""

    nearest: NearestRows
    tokens: Tokens
    candidate_CE: Tensor
    vectors: Callable[[Tensor], Tensor]
    """Item rows to vectors."""


class RankedTokens(NamedTuple):
    """What TransAct V2 returns while training: logits, and what it read."""

    logit_CA: Tensor
    tokens: Tokens
    row_CTD: Tensor
    """The transformer's rows."""


class TransActV2(SecondRanker):
    """The events nearest to the candidate out of a lifelong sequence (arXiv 2506.02267)."""

    def __init__(self, config: TransactV2Config) -> None:
        super().__init__(config)
        self.config: TransactV2Config = config
        self.encoder = LifelongEncoder(config)
        self.nearest_actions = NearestActions(config)
        self.heads = Heads(config, self.encoder.size, self.interests.size + self.nearest_actions.size)
        search_VW = torch.zeros(config.num_items, config.search_dim, dtype=torch.int8)
        self.search_VW: Tensor = nn.Buffer(search_VW)

    def forward(
        self, requests: RequestBatch, nearest: NearestRows | None = None, hidden_V: Tensor | None = None
    ) -> Tensor:
        """Return logits [C, A]; without the rows that a search found, this searches."""
        asked = self._asked(requests, nearest, hidden_V)
        encoded_CD = self.encoder.summaries(asked.tokens, requests, asked.candidate_CE, asked.vectors)
        return self._logits(requests, asked, encoded_CD)

    def ranked(
        self, requests: RequestBatch, nearest: NearestRows | None = None, hidden_V: Tensor | None = None
    ) -> RankedTokens:
        """Return logits, and the transformer's rows that they come from."""
        asked = self._asked(requests, nearest, hidden_V)
        encoded_CD, row_CTD = self.encoder(asked.tokens, requests, asked.candidate_CE, asked.vectors)
        return RankedTokens(self._logits(requests, asked, encoded_CD), asked.tokens, row_CTD)

    def _asked(
        self, requests: RequestBatch, nearest: NearestRows | None, hidden_V: Tensor | None
    ) -> AskedTokens:
        if nearest is None:
            nearest = nearest_rows(requests, self.search_VW, self.config)
        return AskedTokens(
            nearest,
            Tokens.of(requests, nearest, self.config),
            self.vectors(requests.candidate_item_C, hidden_V),
            partial(self.vectors, hidden_V=hidden_V),
        )

    def _logits(self, requests: RequestBatch, asked: AskedTokens, encoded_CD: Tensor) -> Tensor:
        # As training on logged rows has no more than these of a lifelong sequence, nothing else reads it.
        realtime = replace(requests, events=latest(requests.events, self.config.realtime_events))
        read = (asked.vectors(realtime.events.item_row_N), asked.vectors(realtime.impressions.item_row_N))
        near_CK = self.interests(realtime, read, asked.candidate_CE, None)
        acted_CK = self.nearest_actions(requests, asked.nearest, asked.candidate_CE, asked.vectors)
        near_CK = torch.cat([near_CK, acted_CK], dim=1)
        logit_CA: Tensor = self.heads(encoded_CD, near_CK, requests, asked.candidate_CE)
        return logit_CA
