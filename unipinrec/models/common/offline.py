"""Answers of a model that reads histories, by eager PyTorch without a server: what evaluations measure.

It shares no code with the serving nodes beyond the model: exact search by a matrix product instead of the
index, the padded batch attention of training instead of the slots. Answers are on the model's device.

Shapes: B users, N events, T = N + 1 positions, V items, K candidates, A actions, S steps, X outcomes asked
for, O time offsets, E item width, L layers, H heads, D head width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from unipinrec.arrays import Int64s
from unipinrec.data.history import History
from unipinrec.data.window import window_start
from unipinrec.models.common.history_model import HistoryModel, JointModel, Reading, Shown
from unipinrec.models.common.tokens import Events


@dataclass(frozen=True, slots=True, kw_only=True)
class OfflineRequest:
    """One user's whole history and the request's context."""

    history: History
    request_time: int
    surface: int = 0
    impressions: History | None = None
    """What the user was shown and did not act on, oldest first. None: what the history holds of it."""


class OfflineRetriever:
    """Retrieval by one model."""

    def __init__(self, model: HistoryModel) -> None:
        self._model = model.eval()
        self.item_vector_VE = model.embedder.all_vectors()

    @torch.no_grad()
    def retrieval_scores(self, requests: Sequence[OfflineRequest]) -> Tensor:
        """Return inner products [B, V] of each user's immediate query embedding with every item."""
        window = Window(self._model, self.item_vector_VE, requests)
        query_BXOE = self._queries(window, [self._model.config.num_actions])
        return query_BXOE[:, 0, 0] @ self.item_vector_VE.T

    @torch.no_grad()
    def query_embeddings(
        self, requests: Sequence[OfflineRequest], outcomes: Sequence[int], steps: int, leading_outcome: int
    ) -> Tensor:
        """Return query embeddings [B, S, X, O, E] of every step, outcome and time offset (PinRec §2.5).

        Each step after the first encodes the history again, with the fed-back embeddings as masked events.
        """
        window = Window(self._model, self.item_vector_VE, requests)
        made = []
        for step in range(steps):
            query_BXOE = self._queries(window, [*outcomes, leading_outcome])
            made.append(query_BXOE[:, :-1])
            if step + 1 < steps:
                window.append(query_BXOE[:, -1, 0])
        return torch.stack(made, dim=1)

    def _queries(self, window: "Window", outcomes: Sequence[int]) -> Tensor:
        """Query embeddings [B, X, O, E] after each window's last event."""
        hidden_BTC, _ = window.encode()
        offset_O = torch.arange(len(self._model.time_offsets_s), device=hidden_BTC.device)
        outcome_X1 = torch.tensor(outcomes, device=hidden_BTC.device)[:, None]
        shape = (len(window.length_B), len(outcomes), len(offset_O))
        last_BC = hidden_BTC[torch.arange(shape[0], device=hidden_BTC.device), window.length_B]
        query_BXOE: Tensor = self._model.retrieval_head(
            last_BC[:, None, None].expand(*shape, -1),
            window.request_time_B[:, None, None].expand(shape),
            window.surface_B[:, None, None].expand(shape),
            outcome_X1.expand(shape),
            offset_O.expand(shape),
        )
        return query_BXOE


class OfflineRanker(OfflineRetriever):
    """Retrieval and ranking by one model."""

    def __init__(self, model: JointModel) -> None:
        super().__init__(model)
        self._model: JointModel = model

    @torch.no_grad()
    def action_probabilities(
        self, requests: Sequence[OfflineRequest], candidates: Sequence[Int64s]
    ) -> list[Tensor]:
        """Return probabilities [K, A] of each request's candidate rows [K]."""
        window = Window(self._model, self.item_vector_VE, requests)
        row_BK = _pad(candidates).to(self.item_vector_VE.device)
        shown = Shown(
            vector_BKE=self.item_vector_VE[row_BK],
            rate_BKA=self._model.ranking_head.item_rates(row_BK),
            feedview_BK=torch.zeros_like(row_BK),
            timestamp_BF=window.request_time_B[:, None],
            surface_BF=window.surface_B[:, None],
            length_BF=window.length_B[:, None],
        )
        logit_BKA = self._model.score_padded(shown, window.events, window.read())
        return [
            torch.sigmoid(logit_KA[: len(row)]) for logit_KA, row in zip(logit_BKA, candidates, strict=True)
        ]


class Window:
    """The events of some requests that the trunk reads, padded, and what is appended to them."""

    def __init__(self, model: HistoryModel, vector_VE: Tensor, requests: Sequence[OfflineRequest]) -> None:
        config = model.config
        windows = [
            request.history[window_start(len(request.history), config.max_history, config.window_block) :]
            for request in requests
        ]
        device = vector_VE.device
        self._model = model
        self.length_B = torch.tensor([len(window) for window in windows], device=device)
        self.request_time_B = torch.tensor([request.request_time for request in requests], device=device)
        self.surface_B = torch.tensor([request.surface for request in requests], device=device)
        item_BN, actions_BN, timestamp_BN, surface_BN = (
            _pad([getattr(window, name) for window in windows]).to(device)
            for name in ("item_row_N", "actions_N", "timestamp_N", "surface_N")
        )
        masked_BN = torch.zeros_like(actions_BN, dtype=torch.bool)
        self.events = Events(vector_VE[item_BN], actions_BN, timestamp_BN, surface_BN, masked_BN)

    def encode(self) -> tuple[Tensor, Tensor]:
        """Return hidden states [B, T, C] and keys and values [L, 2, B, H, T, D]."""
        return self._model.encode(self.events)

    def read(self) -> Reading:
        """Return the same as training has it."""
        return self._model.read(self.events)

    def append(self, query_BE: Tensor) -> None:
        """Continue each history with a masked event at the request's time."""
        no_action_B = torch.zeros_like(self.length_B)
        row_B = torch.arange(len(query_BE), device=query_BE.device)
        added = (query_BE, no_action_B, self.request_time_B, self.surface_B, no_action_B == 0)
        longer = []
        for column, value in zip(self.events, added, strict=True):
            empty = column.new_zeros(len(column), 1, *column.shape[2:])
            longer.append(torch.cat([column, empty], dim=1))
            longer[-1][row_B, self.length_B] = value
        self.events = Events(*longer)
        self.length_B = self.length_B + 1


def _pad(rows: Sequence[Int64s]) -> Tensor:
    tensors = [torch.from_numpy(np.ascontiguousarray(row, np.int64)) for row in rows]
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True)
