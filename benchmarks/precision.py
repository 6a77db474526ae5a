"""What serving in fewer bits costs in held-out quality: float32, bfloat16 and 8 bits over the same users.

Shapes: U users, B users of one chunk, V items, N events, K candidates, R retrieved ones after the target,
T positions, A actions, E item width, L layers, H heads, D head width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from experiments.report import Machine
from export.bundle_writer import DatasetMismatchError
from unipinrec.config import Config
from unipinrec.data.interactions import InteractionDataset, split_leave_one_out
from unipinrec.evaluation.auc import auc_by_user
from unipinrec.evaluation.bootstrap import Estimate, difference, estimate
from unipinrec.evaluation.catalogue import ndcg_at_k, ranks_after, recall_at_k
from unipinrec.evaluation.leave_one_out import CHUNK_USERS, K, RetrievalScorer, request_before
from unipinrec.models.unified.module import UnifiedRecommender
from unipinrec.models.unified.offline import OfflineRecommender
from unipinrec.models.unified.precision import Lowered, lower_precision
from unipinrec.training.checkpoint import load_model, load_state

REFERENCE = "float32"

PROTOCOL = (
    "Leave one out: each user's last event is the target, everything before it the history. Retrieval ranks "
    "the full catalogue without the history. Ranking scores the same candidates in every precision, by their "
    "utility: the target, the items that float32 retrieves best, and as many random ones from outside the "
    "history. Its AUC is that of the target among the random ones, its NDCG that of the target among the "
    "retrieved ones, which are all likely. Agreement compares the order of the target and the retrieved ones "
    "with float32, logits those of all candidates. Intervals are 95 % bootstrap intervals over users, those "
    "of differences paired by user."
)

ARITHMETIC = (
    "Computed on a CPU: bfloat16 weights and activations, E4M3 products with one scale for each row, sums "
    "within a product in float32, results rounded to bfloat16. That is what a GPU computes up to the order "
    "of its sums and to what its kernels fuse; 8-bit matrix units may also keep fewer bits than float32 "
    "within a sum, which a CPU does not show."
)

SEED = 0
"""Of the random candidates."""

Floats = NDArray[np.float64]


class LogitDifference(Config):
    """Absolute differences of ranking logits from float32, over users, candidates and actions."""

    mean: float
    p99: float
    largest: float


class PrecisionRow(Config):
    """One precision."""

    precision: str
    metrics: dict[str, Estimate]
    differences: dict[str, Estimate] = Field(default_factory=dict)
    """Each metric less that of float32, paired by user."""
    agreement: dict[str, Estimate] = Field(default_factory=dict)
    """Of the order with that of float32. `same top 10`: share of users with the same ten best candidates, as
    sets; `top 10 overlap`: share of the ten that float32 has too; `kendall`: Kendall's tau."""
    logits: LogitDifference | None = None


class PrecisionReport(Config):
    """What `unipinrec bench-precision` found."""

    machine: Machine
    protocol: str = PROTOCOL
    arithmetic: str = ARITHMETIC
    dataset: str
    epoch: int
    """Of the checkpoint."""
    users: int
    retrieved: int
    """Candidates of each user besides the target, and as many random ones."""
    rows: tuple[PrecisionRow, ...]
    """Float32 first."""

    def write(self, path: Path) -> None:
        """Write the report as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.model_dump_json(indent=1) + "\n")


@dataclass(frozen=True, slots=True)
class Answers:
    """What one precision makes of every user."""

    values: dict[str, Floats]
    """Metric to its value for each user, [U]."""
    logit_UKA: NDArray[np.float32]
    score_UR: Floats
    """Utility of the target and the retrieved candidates."""


def measure_precision(
    checkpoint: Path, dataset: InteractionDataset, users: int, tell: Callable[[str], None]
) -> PrecisionReport:
    """Measure every precision on the first `users` users of the dataset that have a held-out event.

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
    held_out = HeldOutUsers.of(dataset, users, load_model(checkpoint))
    reference = held_out.answers(load_model(checkpoint))
    rows = [PrecisionRow(precision=REFERENCE, metrics=_estimates(reference.values))]
    tell(_line(rows[-1]))
    for precision in get_args(Lowered):
        answers = held_out.answers(lower_precision(load_model(checkpoint), precision))
        rows.append(_compare(precision, answers, reference))
        tell(_line(rows[-1]))
    return PrecisionReport(
        machine=Machine.here(),
        dataset=dataset.info.name,
        epoch=state.epoch,
        users=len(held_out.user_U),
        retrieved=held_out.retrieved,
        rows=tuple(rows),
    )


@dataclass(frozen=True, slots=True)
class HeldOutUsers:
    """Users with a held-out event, and the candidates that every precision ranks for them."""

    dataset: InteractionDataset
    user_U: NDArray[np.int64]
    length_U: NDArray[np.int64]
    """Events before the target."""
    candidate_UK: NDArray[np.int64]
    """Item rows: the target, the retrieved ones, random ones."""
    retrieved: int

    @classmethod
    def of(cls, dataset: InteractionDataset, users: int, model: UnifiedRecommender) -> "HeldOutUsers":
        """The first users; `model` retrieves."""
        split = split_leave_one_out(dataset)
        user_U = np.flatnonzero(split.held_out_U)[:users]
        length_U = split.train_end_U[user_U] + 1
        items = len(dataset.item_ids_V) - int(length_U.max())
        retrieved = min(model.config.max_candidates, items) - 1
        scorer = RetrievalScorer(OfflineRecommender(model), dataset)
        draw = np.random.default_rng(SEED)
        rows = []
        for user_B, length_B in _chunks(user_U, length_U):
            for user, length, score_V in zip(user_B, length_B, scorer(user_B, length_B), strict=True):
                item_row_N = dataset.history(int(user)).item_row_N
                score_V[item_row_N[: length + 1]] = -np.inf
                best = np.argsort(-score_V, kind="stable")[:retrieved]
                random = draw.choice(np.flatnonzero(np.isfinite(score_V)), retrieved, replace=False)
                rows.append(np.concatenate([item_row_N[length : length + 1], best, random]))
        return cls(dataset, user_U, length_U, np.stack(rows), retrieved)

    def answers(self, model: UnifiedRecommender) -> Answers:
        """Both stages of one model."""
        scorer = RetrievalScorer(OfflineRecommender(model), self.dataset)
        rank_U = ranks_after(scorer, self.dataset, self.user_U, self.length_U, CHUNK_USERS)
        logit_UKA = self._logits(model)
        weight_A = torch.tensor(self.dataset.info.utility_weights, dtype=torch.float64)
        score_UK = (torch.sigmoid(logit_UKA.double()) @ weight_A).numpy()
        score_UR = score_UK[:, : 1 + self.retrieved]
        ranked_U = 1 + (score_UR > score_UK[:, :1]).sum(1)
        values = {
            f"retrieval recall@{K}": recall_at_k(rank_U, K),
            f"retrieval ndcg@{K}": ndcg_at_k(rank_U, K),
            "ranking auc": _target_auc(np.delete(score_UK, np.s_[1 : 1 + self.retrieved], axis=1)),
            f"ranking ndcg@{K}": ndcg_at_k(ranked_U, K),
        }
        return Answers(values, logit_UKA.numpy(), score_UR)

    @torch.no_grad()
    def _logits(self, model: UnifiedRecommender) -> Tensor:
        """Logits [U, K, A] by the pass that serves, over keys and values of exact length."""
        recommender, vector_VE = OfflineRecommender(model), model.embedder.all_vectors()
        made = []
        for user_B, length_B, candidate_BK in _chunks(self.user_U, self.length_U, self.candidate_UK):
            requests = [
                request_before(self.dataset, user, length)
                for user, length in zip(user_B.tolist(), length_B.tolist(), strict=True)
            ]
            time_B = torch.tensor([request.request_time for request in requests])
            surface_B = torch.tensor([request.surface for request in requests])
            candidate_BKE = vector_VE[torch.from_numpy(candidate_BK)]
            past_L2HTD = recommender.keys_and_values(requests)
            made.append(model.score(candidate_BKE, time_B, surface_B, past_L2HTD))
        return torch.cat(made)


def kendall_by_user(a_UK: Floats, b_UK: Floats) -> Floats:
    """Kendall's tau of each user's two score lists: agreeing less disagreeing pairs, over all pairs, [U].

    A pair of equal scores in either list counts as neither (tau a).
    """
    pairs = a_UK.shape[1] * (a_UK.shape[1] - 1)
    return np.array([(_order(a_K) * _order(b_K)).sum() / pairs for a_K, b_K in zip(a_UK, b_UK, strict=True)])


def top_overlap_by_user(a_UK: Floats, b_UK: Floats, k: int) -> Floats:
    """Share of the `k` best of each list that the other has too, [U]. Of equal ones the first is better."""
    best = [np.argsort(-score_UK, axis=1, kind="stable")[:, :k] for score_UK in (a_UK, b_UK)]
    return np.array([len(np.intersect1d(a, b)) / len(a) for a, b in zip(*best, strict=True)])


def _order(score_K: Floats) -> Floats:
    return np.sign(score_K[:, None] - score_K[None, :])


def _target_auc(score_UK: Floats) -> Floats:
    """Share of the other candidates below the target, which stands first; equal ones count half, [U]."""
    users, candidates = score_UK.shape
    label_UK = np.zeros(score_UK.shape, np.bool_)
    label_UK[:, 0] = True
    user_S = np.repeat(np.arange(users), candidates)
    return auc_by_user(score_UK.ravel(), label_UK.ravel(), user_S).auc_G


def _compare(precision: str, answers: Answers, reference: Answers) -> PrecisionRow:
    overlap_U = top_overlap_by_user(answers.score_UR, reference.score_UR, K)
    away = np.abs(answers.logit_UKA - reference.logit_UKA)
    return PrecisionRow(
        precision=precision,
        metrics=_estimates(answers.values),
        differences={
            name: difference(value_U, reference.values[name]) for name, value_U in answers.values.items()
        },
        agreement={
            f"same top {K}": estimate((overlap_U == 1).astype(np.float64)),
            f"top {K} overlap": estimate(overlap_U),
            "kendall": estimate(kendall_by_user(answers.score_UR, reference.score_UR)),
        },
        logits=LogitDifference(
            mean=float(away.mean()), p99=float(np.quantile(away, 0.99)), largest=float(away.max())
        ),
    )


def _estimates(values: dict[str, Floats]) -> dict[str, Estimate]:
    return {name: estimate(value_U) for name, value_U in values.items()}


def _line(row: PrecisionRow) -> str:
    parts = [f"{name} {one.mean:.4f}" for name, one in row.metrics.items()]
    parts += [
        f"{name} {one.mean:+.4f} ({one.low:+.4f} to {one.high:+.4f})" for name, one in row.differences.items()
    ]
    return f"{row.precision}: {', '.join(parts)}"


def _chunks(*columns: NDArray[np.int64]) -> list[tuple[NDArray[np.int64], ...]]:
    """The columns, cut alike into runs of `CHUNK_USERS`."""
    begins = range(0, len(columns[0]), CHUNK_USERS)
    return [tuple(column[begin : begin + CHUNK_USERS] for column in columns) for begin in begins]
