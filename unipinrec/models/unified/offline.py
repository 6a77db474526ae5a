"""Recommendations by eager PyTorch without a server: what served answers and evaluations are held against.

It shares no code with the serving nodes beyond the model: exact search by a matrix product instead of the
index, the padded batch attention of training instead of the slots, sorting in PyTorch.

Shapes: B users, N events, T = N + 1 positions, V items, K candidates, A actions, S steps, X outcomes asked
for, O time offsets, Q query embeddings of one request, E item width, L layers, H heads, D head width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from unipinrec.bundle import ServingDefaults
from unipinrec.data.history import History
from unipinrec.data.window import window_start
from unipinrec.models.unified import UnifiedRecommender
from unipinrec.models.unified.queries import QueryPlan, merge_similar, plan_queries


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
    origin_K: NDArray[np.int64]
    """Which query embedding retrieved each item, as `QueryPlan.origins` numbers them."""


class OfflineRecommender:
    """Both stages over one model on the CPU; `action_probabilities` also takes one on a GPU."""

    def __init__(self, model: UnifiedRecommender) -> None:
        self._model = model.eval()
        self._vector_VE = model.embedder.all_vectors()

    @torch.no_grad()
    def retrieval_scores(self, requests: Sequence[OfflineRequest]) -> Tensor:
        """Inner products [B, V] of each user's immediate query embedding for any outcome with every item."""
        any_outcome = torch.tensor([self._model.config.num_actions])
        query_BQE = self._queries(_Window(self._model, self._vector_VE, requests), any_outcome)
        return query_BQE[:, 0, 0] @ self._vector_VE.T

    @torch.no_grad()
    def query_embeddings(
        self, requests: Sequence[OfflineRequest], outcomes: Sequence[int], steps: int, leading_outcome: int
    ) -> Tensor:
        """Query embeddings [B, S, X, O, E] of every step, outcome asked for and time offset (PinRec §2.5).

        Each step after the first encodes the history again, with the fed-back embeddings as masked events.
        """
        window = _Window(self._model, self._vector_VE, requests)
        asked_X = torch.tensor([*outcomes, leading_outcome])
        made = []
        for step in range(steps):
            query_BXOE = self._queries(window, asked_X)
            made.append(query_BXOE[:, :-1])
            if step + 1 < steps:
                window.append(query_BXOE[:, -1, 0])
        return torch.stack(made, dim=1)

    @torch.no_grad()
    def recommend(
        self,
        requests: Sequence[OfflineRequest],
        num_results: int,
        defaults: ServingDefaults,
        outcome_weights: Sequence[float] | None = None,
    ) -> list[OfflineAnswer]:
        """Retrieve `over_fetch x num_results` items outside each history, rank them, cut to the best."""
        config = self._model.config
        wanted = min(defaults.over_fetch * num_results, config.max_candidates)
        weights = defaults.outcome_weights if outcome_weights is None else outcome_weights
        plan = plan_queries(wanted, weights, defaults.retrieval_steps, len(config.time_offsets_s))
        query_BSXOE = self.query_embeddings(
            requests, range(config.num_actions + 1), plan.steps, plan.leading_outcome
        )
        found = [
            self._search(query_SXOE[plan.step_Q, plan.outcome_Q, plan.offset_Q], plan, request, defaults)
            for query_SXOE, request in zip(query_BSXOE, requests, strict=True)
        ]
        probabilities = self.action_probabilities(requests, [row_K.numpy() for row_K, _ in found])
        weight_A = torch.tensor(defaults.utility_weights)
        answers = []
        for (row_K, origin_K), probability_KA in zip(found, probabilities, strict=True):
            score_K = (probability_KA * weight_A).sum(-1)
            by_row = row_K.argsort()
            order = by_row[score_K[by_row].argsort(descending=True, stable=True)][:num_results]
            answers.append(
                OfflineAnswer(
                    row_K[order].numpy(),
                    score_K[order].numpy(),
                    probability_KA[order].numpy(),
                    origin_K[order].numpy(),
                )
            )
        return answers

    @torch.no_grad()
    def action_probabilities(
        self, requests: Sequence[OfflineRequest], candidates: Sequence[NDArray[np.int64]]
    ) -> list[Tensor]:
        """Probabilities [K, A] of each request's candidate rows [K], on the model's device."""
        window = _Window(self._model, self._vector_VE, requests)
        _, past_L2BHTD = window.encode()
        logit_BKA = self._model.score_padded(
            self._vector_VE[_pad(candidates).to(self._vector_VE.device)],
            window.request_time_B,
            window.surface_B,
            past_L2BHTD,
            window.length_B,
        )
        return [
            torch.sigmoid(logit_KA[: len(row)]) for logit_KA, row in zip(logit_BKA, candidates, strict=True)
        ]

    @torch.no_grad()
    def keys_and_values(self, requests: Sequence[OfflineRequest]) -> list[Tensor]:
        """Keys and values [L, 2, H, T, D] of each request's history, exact in length."""
        window = _Window(self._model, self._vector_VE, requests)
        _, past_L2BHTD = window.encode()
        return [past_L2BHTD[:, :, row, :, : end + 1] for row, end in enumerate(window.length_B.tolist())]

    def _queries(self, window: "_Window", outcome_X: Tensor) -> Tensor:
        """Query embeddings [B, X, O, E] after each window's last event."""
        hidden_BTC, _ = window.encode()
        offset_O = torch.arange(len(self._model.config.time_offsets_s))
        shape = (len(window.length_B), len(outcome_X), len(offset_O))
        last_BC = hidden_BTC[torch.arange(shape[0]), window.length_B]
        query_BXOE: Tensor = self._model.retrieval_head(
            last_BC[:, None, None].expand(*shape, -1),
            window.request_time_B[:, None, None].expand(shape),
            window.surface_B[:, None, None].expand(shape),
            outcome_X[:, None].expand(shape),
            offset_O.expand(shape),
        )
        return query_BXOE

    def _search(
        self, query_QE: Tensor, plan: QueryPlan, request: OfflineRequest, defaults: ServingDefaults
    ) -> tuple[Tensor, Tensor]:
        """Item rows and the origins of the query embeddings that found them, in generation order."""
        config = self._model.config
        kept_Q, budget_Q = merge_similar(query_QE.numpy(), plan.budget_Q, defaults.merge_cosine)
        origin_Q = plan.origins(config.num_actions, len(config.time_offsets_s))
        score_QV = query_QE[kept_Q] @ self._vector_VE.T
        score_QV[:, torch.from_numpy(request.history.item_row_N)] = -torch.inf
        rows: list[Tensor] = []
        origins = []
        for score_V, budget, origin in zip(score_QV, budget_Q.tolist(), origin_Q[kept_Q], strict=True):
            for taken in rows:
                score_V[taken] = -torch.inf
            top_K = score_V.topk(min(budget, len(score_V)))
            rows.append(top_K.indices[top_K.values.isfinite()])
            origins.append(torch.full_like(rows[-1], int(origin)))
        return torch.cat(rows), torch.cat(origins)


class _Window:
    """The events that the trunk reads, padded, and what is appended to them."""

    def __init__(
        self, model: UnifiedRecommender, vector_VE: Tensor, requests: Sequence[OfflineRequest]
    ) -> None:
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
        self._vector_BNE = vector_VE[_pad([window.item_row_N for window in windows]).to(device)]
        self._actions_BN = _pad([window.actions_N for window in windows]).to(device)
        self._timestamp_BN = _pad([window.timestamp_N for window in windows]).to(device)
        self._surface_BN = _pad([window.surface_N for window in windows]).to(device)
        self._masked_BN = torch.zeros_like(self._actions_BN, dtype=torch.bool)

    def encode(self) -> tuple[Tensor, Tensor]:
        """Hidden states [B, T, C] and keys and values [L, 2, B, H, T, D]."""
        return self._model.encode(
            self._vector_BNE, self._actions_BN, self._timestamp_BN, self._surface_BN, self._masked_BN
        )

    def append(self, query_BE: Tensor) -> None:
        """Continue each history with a masked event at the request's time."""
        row_B = torch.arange(len(query_BE))
        self._vector_BNE = F.pad(self._vector_BNE, (0, 0, 0, 1))
        self._vector_BNE[row_B, self.length_B] = query_BE
        for name, value_B in (
            ("_actions_BN", torch.zeros_like(self.length_B)),
            ("_timestamp_BN", self.request_time_B),
            ("_surface_BN", self.surface_B),
            ("_masked_BN", torch.ones_like(self.length_B, dtype=torch.bool)),
        ):
            padded_BN = F.pad(getattr(self, name), (0, 1))
            padded_BN[row_B, self.length_B] = value_B
            setattr(self, name, padded_BN)
        self.length_B = self.length_B + 1


def _pad(rows: Sequence[NDArray[np.int64]]) -> Tensor:
    tensors = [torch.from_numpy(np.ascontiguousarray(row, np.int64)) for row in rows]
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True)
