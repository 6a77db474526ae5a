"""Recommendations by eager PyTorch without a server: what served answers and evaluations are held against.

It shares no code with the serving nodes beyond the model: exact search by a matrix product instead of the
index, the padded batch attention of training instead of the slots, sorting in PyTorch.

Shapes: B users, N events, V items, K candidates, A actions, E item width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unipinrec.data.history import History
from unipinrec.data.window import window_start
from unipinrec.model import UnifiedRecommender


@dataclass(frozen=True, slots=True, kw_only=True)
class OfflineRequest:
    """One user's whole history and the request's context."""

    history: History
    request_time: int
    surface: int = 0


@dataclass(frozen=True, slots=True)
class OfflineAnswer:
    """Item rows, best first, with scores and action probabilities."""

    item_row_K: NDArray[np.int64]
    score_K: NDArray[np.float32]
    probability_KA: NDArray[np.float32]


class OfflineRecommender:
    """Both stages over one model."""

    def __init__(self, model: UnifiedRecommender) -> None:
        self._model = model.eval()
        self._vector_VE = model.embedder.all_vectors()

    @torch.no_grad()
    def retrieval_scores(self, requests: Sequence[OfflineRequest]) -> Tensor:
        """Inner products [B, V] of each user's query embedding with every item."""
        scores_BV, _, _ = self._retrieve(requests)
        return scores_BV

    @torch.no_grad()
    def recommend(
        self,
        requests: Sequence[OfflineRequest],
        num_results: int,
        over_fetch: int,
        utility_weights: Sequence[float],
    ) -> list[OfflineAnswer]:
        """Retrieve `over_fetch x num_results` items outside each history, rank them, cut to the best."""
        scores_BV, past_L2BHTD, length_B = self._retrieve(requests)
        for row, request in enumerate(requests):
            scores_BV[row, torch.from_numpy(request.history.item_row_N)] = -torch.inf
        wanted = min(over_fetch * num_results, self._model.config.max_candidates, scores_BV.size(1))
        top_BK = scores_BV.topk(wanted, dim=1)
        time_B = torch.tensor([request.request_time for request in requests])
        surface_B = torch.tensor([request.surface for request in requests])
        logit_BKA = self._model.score_padded(
            self._vector_VE[top_BK.indices], time_B, surface_B, past_L2BHTD, length_B
        )
        weight_A = torch.tensor(utility_weights)
        answers = []
        for row_K, found_K, logit_KA in zip(top_BK.indices, top_BK.values, logit_BKA, strict=True):
            row_K, probability_KA = row_K[found_K.isfinite()], torch.sigmoid(logit_KA[found_K.isfinite()])
            score_K = (probability_KA * weight_A).sum(-1)
            by_row = row_K.argsort()
            order = by_row[score_K[by_row].argsort(descending=True, stable=True)][:num_results]
            answers.append(
                OfflineAnswer(row_K[order].numpy(), score_K[order].numpy(), probability_KA[order].numpy())
            )
        return answers

    def _retrieve(self, requests: Sequence[OfflineRequest]) -> tuple[Tensor, Tensor, Tensor]:
        config = self._model.config
        windows = [
            request.history[window_start(len(request.history), config.max_history, config.window_block) :]
            for request in requests
        ]
        length_B = torch.tensor([len(window) for window in windows])
        hidden_BTC, past_L2BHTD = self._model.encode(
            self._vector_VE[_pad([window.item_row_N for window in windows])],
            _pad([window.actions_N for window in windows]),
            _pad([window.timestamp_N for window in windows]),
            _pad([window.surface_N for window in windows]),
        )
        query_BE = self._model.retrieval_head(
            hidden_BTC[torch.arange(len(requests)), length_B],
            torch.tensor([request.request_time for request in requests]),
            torch.tensor([request.surface for request in requests]),
        )
        return query_BE @ self._vector_VE.T, past_L2BHTD, length_B


def _pad(rows: Sequence[NDArray[np.int64]]) -> Tensor:
    tensors = [torch.from_numpy(np.ascontiguousarray(row, np.int64)) for row in rows]
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True)
