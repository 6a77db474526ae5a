"""What TransAct V2 reads for each candidate: its nearest events, and the latest ones (arXiv 2506.02267 §3).

Shapes: R requests, C candidates, N rows of a sequence of all requests, X rows of both sequences, U those that
a candidate reads, T tokens of a candidate, D token width, E item width, A actions, K rows of one part, L
latest events.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from unipinrec.models.common.features import EventGap
from unipinrec.models.transact.batch import NearestRows, PackedEvents, RequestBatch
from unipinrec.models.transact.causal_blocks import CausalBlocks, candidates_together
from unipinrec.models.transact.config import TransactV2Config
from unipinrec.models.transact.layer import HIDDEN, CausalLayer
from unipinrec.models.transact.nearest import parts_of
from unipinrec.models.transact.parts import side_by_side


@dataclass(frozen=True, slots=True)
class Tokens:
    """Which rows each candidate reads, as indices among the events and, behind them, the impressions."""

    row_CT: Tensor
    """Valid ones first; 0 behind them."""
    slot_CT: Tensor
    """The learned position of each."""
    length_C: Tensor
    latest_begin_C: Tensor
    """Place of the first of the latest events among a candidate's tokens."""
    latest_length_C: Tensor

    @classmethod
    def of(
        cls, requests: RequestBatch, nearest: NearestRows, config: TransactV2Config, fixed: bool = False
    ) -> "Tokens":
        """Return the parts in their order, packed to the front.

        A part's last slot is its newest row's: fewer rows leave the first slots of their part empty. A
        `fixed` number of tokens is that of all slots, however many are valid.
        """
        request_C = requests.request_of_candidate
        begin_C, end_C = parts_of(requests.events.offset_R1, config)[2][request_C].unbind(1)
        latest_length_C = end_C - begin_C
        ahead_L = torch.arange(config.latest_events, device=request_C.device)
        latest_CL = begin_C.unsqueeze(1) + ahead_L
        events = len(requests.events.item_row_N)
        parts = (
            (nearest.older_CK, nearest.older_count_C),
            (latest_CL, latest_length_C),
            (nearest.realtime_CK, nearest.realtime_count_C),
            (nearest.impression_CK + events, nearest.impression_count_C),
        )
        row_CT = torch.cat([row_CK for row_CK, _ in parts], dim=1)
        valid, slots, begin = [], [], 0
        for row_CK, count_C in parts:
            size = row_CK.size(1)
            place_K = torch.arange(size, device=request_C.device)
            valid.append(place_K < count_C.unsqueeze(1))
            slots.append(begin + size - count_C.unsqueeze(1) + place_K)
            begin += size
        valid_CT, slot_CT = torch.cat(valid, dim=1), torch.cat(slots, dim=1)
        length_C = valid_CT.sum(1)
        if fixed or not valid_CT.all():
            order_CT = (~valid_CT).to(torch.uint8).argsort(dim=1, stable=True)
            order_CT = order_CT if fixed else order_CT[:, : max(int(length_C.max()), 1)]
            kept_CT = valid_CT.gather(1, order_CT)
            row_CT, slot_CT = (place_CT.gather(1, order_CT) * kept_CT for place_CT in (row_CT, slot_CT))
        return cls(row_CT, slot_CT, length_C, nearest.older_count_C, latest_length_C)


class LifelongEncoder(nn.Module):
    """Tokens through a causal transformer; the maximum over all of a linear map of them."""

    def __init__(self, config: TransactV2Config) -> None:
        super().__init__()
        self.config = config
        width = config.row_dim
        self.actions = nn.Parameter(0.1 * torch.randn(config.num_actions, width))
        self.surface = nn.Embedding(config.num_surfaces, width)
        self.position = nn.Embedding(config.tokens, width)
        for table in (self.surface, self.position):
            nn.init.normal_(table.weight, std=0.1)
        self.age = EventGap()
        self.age_to_row = nn.Linear(self.age.size, width, bias=False)
        self.layers = nn.ModuleList(
            CausalLayer(width, config.feedforward, config.dropout) for _ in range(config.encoder_layers)
        )
        self.summary = nn.Linear(width, width)
        self.size = width

    def forward(
        self,
        tokens: Tokens,
        requests: RequestBatch,
        candidate_CE: Tensor,
        vectors: Callable[[Tensor], Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Return [C, D], and the transformer's rows [C, T, D]; zeros stand for a candidate without tokens.

        `vectors` turns item rows into vectors.
        """
        feature_UD, place_CT = self._features(tokens, requests, vectors)
        row_CTD = self.rows(feature_UD, place_CT, tokens.slot_CT, candidate_CE)
        for layer in self.layers:
            row_CTD = layer(row_CTD)
        return self.summarised(row_CTD, tokens.length_C), row_CTD

    def summaries(
        self,
        tokens: Tokens,
        requests: RequestBatch,
        candidate_CE: Tensor,
        vectors: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """Return [C, D] alone: on a CPU in half of the time, where no gradients are wanted."""
        if self.training or torch.is_grad_enabled() or candidate_CE.device.type != "cpu":
            encoded_CD, _ = self(tokens, requests, candidate_CE, vectors)
            return encoded_CD
        feature_UD, place_CT = self._features(tokens, requests, vectors)
        encode = CausalBlocks(cast(Iterable[CausalLayer], self.layers))
        size = candidates_together(place_CT.size(1))
        parts = (column.split(size) for column in (place_CT, tokens.slot_CT, candidate_CE, tokens.length_C))

        def summarise(place_cT: Tensor, slot_cT: Tensor, candidate_cE: Tensor, length_c: Tensor) -> Tensor:
            return self.summarised(encode(self.rows(feature_UD, place_cT, slot_cT, candidate_cE)), length_c)

        return torch.cat(side_by_side(summarise, zip(*parts, strict=True)))

    def rows(self, feature_UD: Tensor, place_CT: Tensor, slot_CT: Tensor, candidate_CE: Tensor) -> Tensor:
        """Return the transformer's input [C, T, D] of tokens whose features are at `place_CT`."""
        candidate_CD = nn.functional.pad(candidate_CE, (candidate_CE.size(1), 0))
        row_CTD = nn.functional.embedding(place_CT, feature_UD) + self.position(slot_CT)
        return row_CTD + candidate_CD.unsqueeze(1)

    def summarised(self, row_CTD: Tensor, length_C: Tensor) -> Tensor:
        """Return the maximum over each candidate's tokens of a linear map of their rows, [C, D]."""
        place_T = torch.arange(row_CTD.size(1), device=row_CTD.device)
        is_token_CT = place_T < length_C.unsqueeze(1)
        mapped_CTD = self.summary(row_CTD).masked_fill_(~is_token_CT.unsqueeze(-1), HIDDEN)
        return mapped_CTD.amax(1) * is_token_CT.any(1, keepdim=True)

    def _features(
        self, tokens: Tokens, requests: RequestBatch, vectors: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return what is known of each event that is read [U, D], and the place of each token's [C, T]."""
        rows = len(requests.events.item_row_N) + len(requests.impressions.item_row_N)
        read_X = torch.zeros(rows + 1, dtype=torch.long, device=tokens.row_CT.device)
        read_X[tokens.row_CT.flatten()] = 1
        place_X = read_X.cumsum(0) - 1
        feature_UD = self.features(read_X[:-1].nonzero().squeeze(1), requests, vectors)
        # A row behind the last one stands for the padding of a batch without any row.
        return nn.functional.pad(feature_UD, (0, 0, 0, 1)), place_X[tokens.row_CT]

    def features(self, row_U: Tensor, requests: RequestBatch, vectors: Callable[[Tensor], Tensor]) -> Tensor:
        """Return what is known of rows among the events and, behind them, the impressions, [U, D]."""
        events, shown = requests.events, requests.impressions
        request_X = torch.cat([_request_of(sequence) for sequence in (events, shown)])
        item_U, actions_U, surface_U, timestamp_U = (
            torch.cat([getattr(events, name), getattr(shown, name)])[row_U]
            for name in ("item_row_N", "actions_N", "surface_N", "timestamp_N")
        )
        vector_UE = vectors(item_U)
        age_U = requests.request_time_R[request_X[row_U]] - timestamp_U
        feature_UD = nn.functional.pad(vector_UE, (0, vector_UE.size(1))) + self.surface(surface_U)
        feature_UD = feature_UD + action_embedding(actions_U, self.actions)
        return feature_UD + self.age_to_row(self.age(age_U, torch.ones_like(age_U)))


def action_embedding(actions_X: Tensor, table_AD: Tensor) -> Tensor:
    """Return the mean of the embeddings of each row's actions [X, D], and zeros where there is none."""
    bit_A = torch.arange(len(table_AD), device=actions_X.device)
    hot_XA = ((actions_X.unsqueeze(-1) >> bit_A) & 1).to(table_AD.dtype)
    return (hot_XA / hot_XA.sum(-1, keepdim=True).clamp(min=1)) @ table_AD


def _request_of(rows: PackedEvents) -> Tensor:
    return torch.repeat_interleave(rows.lengths, output_size=len(rows.item_row_N))
