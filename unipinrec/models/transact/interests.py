"""How near a candidate is to what its user acted on: vectors of users, by action and by time.

TransAct stands beside a learned vector of the user, PinnerFormer's, in its ranker (arXiv 2306.00248 §3.2).
Here means of item vectors take its place, which need no model of their own.

Shapes: R requests, N rows of a sequence of all requests, C candidates, A actions, D decays, K = (A + 1) D
kinds of vector (the last action is "none": impressions), E item width, X any axes of rows.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from unipinrec.models.transact.batch import NearestRows, PackedEvents, RequestBatch
from unipinrec.models.transact.config import SecondRankerConfig, TransactV2Config

SHARPNESS = 4.0
"""How fast likeness falls with the cosine: a quarter less is worth 0.37."""
NEAR_SCALE = 3.0
"""Brings inner products with means, which are short, near the size of other features."""


class Interests(nn.Module):
    """Means of the vectors of each action's items, the recent ones counting more, and of impressions."""

    def __init__(self, config: SecondRankerConfig) -> None:
        super().__init__()
        self.num_actions = config.num_actions
        half_life_D = torch.tensor(config.half_lives_s, dtype=torch.float32)
        self.half_life_D: Tensor = nn.Buffer(half_life_D, persistent=False)
        self.kinds = (config.num_actions + 1) * len(config.half_lives_s)
        self.size = 2 * self.kinds

    def forward(
        self,
        requests: RequestBatch,
        vectors: tuple[Tensor, Tensor],
        candidate_CE: Tensor,
        hidden_s_R: Tensor | None,
    ) -> Tensor:
        """Return the candidates' inner products with all means, and how much these are made of, [C, 2 K].

        `vectors` are those of events and impressions; rows of the last `hidden_s_R` seconds do not count.
        """
        request_C = requests.request_of_candidate
        sums, weights = [], []
        bit_A = torch.arange(self.num_actions, device=request_C.device)
        acted_NA = (requests.events.actions_N.unsqueeze(1) >> bit_A) & 1
        passed_N1 = (requests.impressions.actions_N == 0).unsqueeze(1)
        sequences = (requests.events, acted_NA), (requests.impressions, passed_N1)
        for (rows, hot_NA), vector_NE in zip(sequences, vectors, strict=True):
            total_RKE, weight_RK = self._sums(rows, hot_NA, requests.request_time_R, vector_NE, hidden_s_R)
            sums.append(total_RKE)
            weights.append(weight_RK)
        return self.compared(torch.cat(sums, dim=1), torch.cat(weights, dim=1), request_C, candidate_CE)

    def weights(self, hot_XA: Tensor, age_X: Tensor) -> Tensor:
        """Return how much rows of these actions and ages in seconds count in each of their kinds, [X, K]."""
        weight_XD = torch.exp2(-age_X.clamp(min=0).unsqueeze(-1) / self.half_life_D)
        return (hot_XA.unsqueeze(-1) * weight_XD.unsqueeze(-2)).flatten(-2)

    def compared(
        self, total_RKE: Tensor, weight_RK: Tensor, request_C: Tensor, candidate_CE: Tensor
    ) -> Tensor:
        """Return what `forward` does of sums of weighted vectors and of their weights."""
        mean_RKE = total_RKE / (weight_RK + 1).unsqueeze(-1)
        near_CK = torch.bmm(mean_RKE[request_C], candidate_CE.unsqueeze(-1)).squeeze(-1)
        near_CK = near_CK * (NEAR_SCALE * candidate_CE.size(-1) ** -0.5)
        return torch.cat([near_CK, weight_RK[request_C].log1p()], dim=1)

    def _sums(
        self,
        rows: PackedEvents,
        hot_NA: Tensor,
        request_time_R: Tensor,
        vector_NE: Tensor,
        hidden_s_R: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Sums of each request's weighted vectors, [R, K, E], and of their weights, [R, K], of some kinds."""
        lengths = rows.lengths
        request_N = torch.repeat_interleave(lengths, output_size=len(rows.item_row_N))
        age_N = request_time_R[request_N] - rows.timestamp_N
        if hidden_s_R is not None:
            hot_NA = hot_NA * (age_N >= hidden_s_R[request_N]).unsqueeze(1)
        weight_NK = self.weights(hot_NA, age_N).to(vector_NE.dtype)
        counts = lengths.tolist()
        pairs = zip(weight_NK.split(counts), vector_NE.split(counts), strict=True)
        sums = [(weight_nK.T @ vector_nE, weight_nK.sum(0)) for weight_nK, vector_nE in pairs]
        total_RKE, weight_RK = (torch.stack(each) for each in zip(*sums, strict=True))
        return total_RKE, weight_RK


class NearestActions(nn.Module):
    """How often a user did each action to items like the candidate, and passed by such items.

    What a candidate's nearest rows were counts by `exp(SHARPNESS (cosine - 1))`: fully for the candidate
    itself.
    """

    def __init__(self, config: TransactV2Config) -> None:
        super().__init__()
        self.num_actions = config.num_actions
        self.size = 2 * config.num_actions + 1

    def forward(
        self,
        requests: RequestBatch,
        nearest: NearestRows,
        candidate_CE: Tensor,
        vectors: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """Return log(1 + count) of every action on lifelong and on realtime events, and of impressions, [C, 2
        A + 1]."""
        parts = (
            (requests.events, nearest.older_CK, nearest.older_count_C),
            (requests.events, nearest.realtime_CK, nearest.realtime_count_C),
            (requests.impressions, nearest.impression_CK, nearest.impression_count_C),
        )
        bit_A = torch.arange(self.num_actions, device=candidate_CE.device)
        counts = []
        for rows, row_CK, count_C in parts:
            item_CK, actions_CK = (
                nn.functional.pad(column, (0, 1))[row_CK] for column in (rows.item_row_N, rows.actions_N)
            )
            vector_CKE = vectors(item_CK.flatten()).unflatten(0, item_CK.shape)
            cosine_CK = torch.bmm(vector_CKE, candidate_CE.unsqueeze(2)).squeeze(2) / candidate_CE.size(1)
            there_CK = torch.arange(row_CK.size(1), device=row_CK.device) < count_C.unsqueeze(1)
            like_CK = torch.exp(SHARPNESS * (cosine_CK - 1)) * there_CK
            if rows is requests.impressions:
                counts.append(like_CK.sum(1, keepdim=True))
            else:
                acted_CKA = (actions_CK.unsqueeze(2) >> bit_A) & 1
                counts.append((like_CK.unsqueeze(2) * acted_CKA).sum(1))
        return torch.cat(counts, dim=1).log1p()
