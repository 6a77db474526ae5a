"""Recommendations by eager PyTorch without a server: what served answers are held against.

Shapes: V items, K candidates, A actions, S steps, X outcomes asked for, O time offsets, Q query embeddings of
one request, E item width, T positions of a history (BOS first), N events, C hidden width, L layers, H heads,
D head width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unipinrec.arrays import Float32s, Int64s
from unipinrec.bundle import ServingDefaults
from unipinrec.models.common.offline import OfflineRanker, OfflineRequest, Window
from unipinrec.models.unified.module import UnifiedRecommender
from unipinrec.models.unified.queries import QueryPlan, merge_similar, plan_queries

__all__ = ["OfflineAnswer", "OfflineRecommender", "OfflineRequest"]


@dataclass(frozen=True, slots=True)
class OfflineAnswer:
    """Item rows, best first, with scores and action probabilities."""

    item_row_K: Int64s
    score_K: Float32s
    probability_KA: Float32s
    origin_K: Int64s
    """Which query embedding retrieved each item, as `QueryPlan.origins` numbers them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedHistory:
    """One request's history as ranking reads it."""

    hidden_C: Tensor
    """After its last event."""
    past_L2HTD: Tensor
    event_NE: Tensor
    actions_N: Tensor
    timestamp_N: Tensor


class OfflineRecommender(OfflineRanker):
    """Both stages over one model, one after the other as a server runs them."""

    def __init__(self, model: UnifiedRecommender) -> None:
        super().__init__(model)
        self._model: UnifiedRecommender = model

    @torch.no_grad()
    def recommend(
        self,
        requests: Sequence[OfflineRequest],
        num_results: int,
        defaults: ServingDefaults,
        outcome_weights: Sequence[float] | None = None,
    ) -> list[OfflineAnswer]:
        """Retrieve `over_fetch x num_results` items outside each history, rank them, cut to the best.

        The model must be on the CPU.
        """
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
            columns = (row_K, score_K, probability_KA, origin_K)
            answers.append(OfflineAnswer(*(column[order].numpy() for column in columns)))
        return answers

    @torch.no_grad()
    def encoded(self, requests: Sequence[OfflineRequest]) -> list[EncodedHistory]:
        """Return what serving keeps of each request's history, and its events, exact in length."""
        window = Window(self._model, self.item_vector_VE, requests)
        hidden_BTC, past_L2BHTD = window.encode()
        vector_BNE, actions_BN, timestamp_BN, *_ = window.events
        return [
            EncodedHistory(
                hidden_C=hidden_BTC[row, end],
                past_L2HTD=past_L2BHTD[:, :, row, :, : end + 1],
                event_NE=vector_BNE[row, :end],
                actions_N=actions_BN[row, :end],
                timestamp_N=timestamp_BN[row, :end],
            )
            for row, end in enumerate(window.length_B.tolist())
        ]

    def _search(
        self, query_QE: Tensor, plan: QueryPlan, request: OfflineRequest, defaults: ServingDefaults
    ) -> tuple[Tensor, Tensor]:
        """Item rows and the origins of the query embeddings that found them, in generation order."""
        config = self._model.config
        kept_Q, budget_Q = merge_similar(query_QE.numpy(), plan.budget_Q, defaults.merge_cosine)
        origin_Q = plan.origins(config.num_actions, len(config.time_offsets_s))
        score_QV = query_QE[kept_Q] @ self.item_vector_VE.T
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
