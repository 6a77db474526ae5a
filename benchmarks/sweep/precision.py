"""What serving in fewer bits costs in held-out quality: float32, bfloat16 and 8 bits over the same users.

Each user's last event is the target, everything before it the history. Ranking scores the same candidates in
every precision, by their utility: the target, the items that float32 retrieves best, and as many random ones
from outside the history. A CPU computes all of it, with sums within a product in float32.

Shapes: U users, B users of one chunk, V items, N events, K candidates, R retrieved ones after the target,
T positions, A actions, E item width, L layers, H heads, D head width.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import kendalltau
from torch import Tensor

from benchmarks.sweep.sweep import Measures, Sweep, SweepReport, run_sweeps
from export.bundle_writer import DatasetMismatchError
from unipinrec.arrays import Float64s, Int64s
from unipinrec.data.interactions import InteractionDataset, split_leave_one_out
from unipinrec.evaluation.bootstrap import difference, estimate
from unipinrec.evaluation.catalogue import ndcg_at_k, ranks_after, recall_at_k
from unipinrec.evaluation.leave_one_out import CHUNK_USERS, K, RetrievalScorer, request_before
from unipinrec.models.unified.graphs import RankingHeadGraph
from unipinrec.models.unified.offline import OfflineRecommender
from unipinrec.models.unified.precision import Lowered, lower_precision
from unipinrec.training.checkpoint import load_model, load_state

REFERENCE: Literal["float32"] = "float32"
SEED = 0
"""Seed of the random candidates."""


def precision(
    checkpoint: Path, dataset: InteractionDataset, users: int | None, tell: Callable[[str], None]
) -> SweepReport:
    """Measure every precision on the first `users` users of the dataset, or all, that have a held-out event.

    Raises:
        DatasetMismatchError: the checkpoint was trained on another dataset.
        ValueError: the model's sizes do not fit 8-bit layers.
    """
    state = load_state(checkpoint)
    if state.dataset != dataset.info.sha256:
        raise DatasetMismatchError(
            f"{checkpoint} was trained on another dataset than {dataset.info.name}; "
            "allowed: the dataset of its training"
        )
    held_out = HeldOutUsers(dataset, users, load_model(checkpoint))
    reference: list[Answers] = []

    def measure(name: Literal["float32"] | Lowered) -> Measures:
        model = load_model(checkpoint)
        answers = held_out.answers(model if name == "float32" else lower_precision(model, name))
        reference.append(answers)
        metrics = {metric: estimate(value_U) for metric, value_U in answers[0].items()}
        return {**metrics, **({} if name == REFERENCE else _compare(answers, reference[0]))}

    settings = {
        "dataset": dataset.info.name,
        "epoch": state.epoch,
        "users": len(held_out.user_U),
        "retrieved": held_out.retrieved,
    }
    sweep = Sweep("precision", (REFERENCE, *get_args(Lowered)), measure)
    return run_sweeps("precision", settings, [sweep], tell)


Answers = tuple[dict[str, Float64s], NDArray[np.float32], Float64s]
"""What one precision makes of every user: each metric [U], logits [U, K, A], and the utility of the target
and the retrieved candidates [U, R]."""


class HeldOutUsers:
    """Users with a held-out event, and the candidates that every precision ranks for them."""

    def __init__(self, dataset: InteractionDataset, users: int | None, model: Any) -> None:
        """Choose the first users; `model` retrieves."""
        split = split_leave_one_out(dataset)
        self.user_U = np.flatnonzero(split.held_out_U)[:users]
        self._dataset = dataset
        self._length_U = split.train_end_U[self.user_U] + 1
        items = len(dataset.item_ids_V) - int(self._length_U.max())
        self.retrieved = min(model.config.max_candidates, items) - 1
        scorer, rows = RetrievalScorer(OfflineRecommender(model), dataset), []
        draw = np.random.default_rng(SEED)
        for user_B, length_B in _chunks(self.user_U, self._length_U):
            for user, length, score_V in zip(user_B, length_B, scorer(user_B, length_B), strict=True):
                item_row_N = dataset.history(int(user)).item_row_N
                score_V[item_row_N[: length + 1]] = -np.inf
                best = np.argsort(-score_V, kind="stable")[: self.retrieved]
                random = draw.choice(np.flatnonzero(np.isfinite(score_V)), self.retrieved, replace=False)
                rows.append(np.concatenate([item_row_N[length : length + 1], best, random]))
        self._candidate_UK = np.stack(rows)

    def answers(self, model: Any) -> Answers:
        """Return what both stages of a model make of all users."""
        scorer = RetrievalScorer(OfflineRecommender(model), self._dataset)
        rank_U = ranks_after(scorer, self._dataset, self.user_U, self._length_U, CHUNK_USERS)
        logit_UKA = self._logits(model)
        weight_A = torch.tensor(self._dataset.info.utility_weights, dtype=torch.float64)
        score_UK = (torch.sigmoid(logit_UKA.double()) @ weight_A).numpy()
        target_U1, score_UR = score_UK[:, :1], score_UK[:, : 1 + self.retrieved]
        random_UK = score_UK[:, 1 + self.retrieved :]
        values = {
            f"retrieval recall@{K}": recall_at_k(rank_U, K),
            f"retrieval ndcg@{K}": ndcg_at_k(rank_U, K),
            # Of the target among the random ones; a tie counts half.
            "ranking auc": ((target_U1 > random_UK) + 0.5 * (target_U1 == random_UK)).mean(1),
            f"ranking ndcg@{K}": ndcg_at_k(1 + (score_UR > target_U1).sum(1), K),
        }
        return values, logit_UKA.numpy(), score_UR

    @torch.no_grad()
    def _logits(self, model: Any) -> Tensor:
        """Return logits [U, K, A] by the pass that serves, over keys and values of exact length."""
        recommender, vector_VE, made = OfflineRecommender(model), model.embedder.all_vectors(), []
        graph = RankingHeadGraph(model)
        for user_B, length_B, candidate_BK in _chunks(self.user_U, self._length_U, self._candidate_UK):
            pairs = zip(user_B.tolist(), length_B.tolist(), strict=True)
            requests = [request_before(self._dataset, user, length) for user, length in pairs]
            item_row_BK = torch.from_numpy(candidate_BK)
            encoded = recommender.encoded(requests)
            probability_BKA = graph(
                vector_VE[item_row_BK],
                item_row_BK,
                torch.tensor([request.request_time for request in requests]),
                torch.tensor([request.surface for request in requests]),
                torch.stack([one.hidden_C for one in encoded]),
                [one.event_NE for one in encoded],
                [one.actions_N for one in encoded],
                [one.timestamp_N for one in encoded],
                [one.past_L2HTD for one in encoded],
            )
            made.append(torch.logit(probability_BKA.double()))
        return torch.cat(made)


def top_overlap_by_user(a_UK: Float64s, b_UK: Float64s, k: int) -> Float64s:
    """Return the share of the `k` best of each list that the other has too, [U]; of equal ones the first is
    better."""
    best = [np.argsort(-score_UK, axis=1, kind="stable")[:, :k] for score_UK in (a_UK, b_UK)]
    return np.array([len(np.intersect1d(a, b)) / len(a) for a, b in zip(*best, strict=True)])


def kendall_by_user(a_UK: Float64s, b_UK: Float64s) -> Float64s:
    """Return Kendall's tau (b) of each user's two score lists, [U]."""
    return np.array([kendalltau(a_K, b_K).statistic for a_K, b_K in zip(a_UK, b_UK, strict=True)])


def _compare(answers: Answers, reference: Answers) -> Measures:
    (values, logit_UKA, score_UR), (expected, expected_UKA, expected_UR) = answers, reference
    overlap_U = top_overlap_by_user(score_UR, expected_UR, K)
    away = np.abs(logit_UKA - expected_UKA)
    paired = {
        f"{name}, less {REFERENCE}": difference(value_U, expected[name]) for name, value_U in values.items()
    }
    return paired | {
        f"same top {K}": estimate((overlap_U == 1).astype(np.float64)),
        f"top {K} overlap": estimate(overlap_U),
        "kendall": estimate(kendall_by_user(score_UR, expected_UR)),
        "mean difference of a logit": float(away.mean()),
        "p99 of the differences of logits": float(np.quantile(away, 0.99)),
        "largest difference of a logit": float(away.max()),
    }


def _chunks(*columns: Int64s) -> Iterator[tuple[Int64s, ...]]:
    """Yield the columns, cut alike into runs of `CHUNK_USERS`."""
    for begin in range(0, len(columns[0]), CHUNK_USERS):
        yield tuple(column[begin : begin + CHUNK_USERS] for column in columns)
