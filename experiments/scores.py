"""Values per user of every metric, for one trained model.

Shapes: X users or feedviews, S shown items, A actions.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unipinrec.data.interactions import InteractionDataset, Split
from unipinrec.evaluation.auc import auc_estimate, gauc
from unipinrec.evaluation.bootstrap import Estimate, difference, estimate
from unipinrec.evaluation.catalogue import Scorer, ndcg_at_k, ranks_after, recall_at_k
from unipinrec.evaluation.feedviews import hit_at_k
from unipinrec.evaluation.future_feedviews import FutureFeedviews
from unipinrec.evaluation.leave_one_out import CHUNK_USERS
from unipinrec.evaluation.recommender import Retriever
from unipinrec.models.baselines.rates import Rates, Shown, choose_strength

K = 10
HITS = 3


@dataclass(frozen=True, slots=True)
class Values:
    """One metric's values and whose they are; users are resampled whole."""

    value_X: NDArray[np.float64]
    user_X: NDArray[np.int64]

    def estimate(self) -> Estimate:
        """Return the mean and its interval."""
        return estimate(self.value_X, cluster_X=self.user_X)

    def minus(self, other: "Values") -> Estimate:
        """Return the paired difference over the same users."""
        return difference(self.value_X, other.value_X, cluster_X=self.user_X)


def mean_values(runs: list[Values]) -> Values:
    """Return each user's mean over training runs."""
    return Values(np.mean([run.value_X for run in runs], axis=0), runs[0].user_X)


def leave_one_out_values(
    scorer: Scorer, dataset: InteractionDataset, split: Split, *, validation: bool = False
) -> dict[str, Values]:
    """Return Recall@10 and NDCG@10 of every held-out user, over the full catalogue."""
    user_X = np.flatnonzero(split.held_out_U)
    length_X = split.train_end_U[user_X] + (0 if validation else 1)
    rank_X = ranks_after(scorer, dataset, user_X, length_X, CHUNK_USERS)
    return {
        f"recall@{K}": Values(recall_at_k(rank_X, K), user_X),
        f"ndcg@{K}": Values(ndcg_at_k(rank_X, K), user_X),
    }


@dataclass(frozen=True, slots=True)
class Labelled:
    """Held-out slates with their labels, prepared once for all models."""

    views: FutureFeedviews
    label_SA: NDArray[np.bool_]
    offset_F1: NDArray[np.int64]
    user_S: NDArray[np.int64]

    @classmethod
    def of(cls, views: FutureFeedviews) -> "Labelled":
        """Return the labels of these feedviews."""
        offset_F1 = views.offsets()
        return cls(views, views.labels(), offset_F1, np.repeat(views.user_F, np.diff(offset_F1)))

    def hits(self, score_SA: NDArray[np.float32]) -> dict[str, Values]:
        """Return Hit@3 of every action that occurs."""
        hit_FA = hit_at_k(score_SA, self.label_SA, self.offset_F1, HITS)
        found = {}
        for action, name in enumerate(self.views.dataset.info.actions):
            with_action_F = ~np.isnan(hit_FA[:, action])
            if with_action_F.any():
                users = self.views.user_F[with_action_F]
                found[f"hit@{HITS} {name}"] = Values(hit_FA[with_action_F, action], users)
        return found

    def areas(self, score_SA: NDArray[np.float32]) -> dict[str, Estimate]:
        """Return AUC and gAUC of every action that occurs and does not always occur."""
        found = {}
        for action, name in enumerate(self.views.dataset.info.actions):
            label_S = self.label_SA[:, action]
            if label_S.any() and not label_S.all():
                found[f"auc {name}"] = auc_estimate(score_SA[:, action], label_S, self.user_S)
                found[f"gauc {name}"] = gauc(score_SA[:, action], label_S, self.user_S)
        return found

    def recall(self, recommender: Retriever) -> dict[str, Values]:
        """Return Recall@10 of each feedview's first new positive item, over the full catalogue."""
        rank_F = self.views.ranks(recommender)
        sought_F = rank_F > 0
        return {f"recall@{K}": Values(recall_at_k(rank_F[sought_F], K), self.views.user_F[sought_F])}


def rates_scores(labelled: Labelled, split: Split) -> NDArray[np.float32]:
    """Return user rate times item rate for every action, fitted on all shown before the test time, [S, A].

    How strongly rates are smoothed is chosen on the last fifth of the training time.
    """
    dataset = labelled.views.dataset
    views = dataset.feedviews
    size_F = np.diff(views.shown_offset_F1)
    user_F = np.repeat(np.arange(len(dataset.user_ids_U)), np.diff(views.offset_U1))
    train_F = views.timestamp_F < split.test_begin_U[user_F]
    fitted_F = views.timestamp_F < np.quantile(views.timestamp_F[train_F], 0.8)
    train_S, fitted_S = np.repeat(train_F, size_F), np.repeat(train_F & fitted_F, size_F)
    user_S = np.repeat(user_F, size_F)
    tested = np.concatenate(labelled.views.items())
    users, items = len(dataset.user_ids_U), len(dataset.item_ids_V)
    columns = []
    for action in range(len(dataset.info.actions)):
        acted_S = (views.actions_S >> action) & 1 == 1

        def part(chosen_S: NDArray[np.bool_], acted_S: NDArray[np.bool_] = acted_S) -> Shown:
            return Shown(user_S[chosen_S], views.item_row_S[chosen_S], acted_S[chosen_S])

        fitted, chosen = part(fitted_S), part(train_S & ~fitted_S)
        if not (fitted.label_S.any() and chosen.label_S.any() and not chosen.label_S.all()):
            columns.append(np.zeros(len(tested)))
            continue
        strength = choose_strength(fitted, chosen, users, items)
        columns.append(Rates(part(train_S), users, items, strength)(labelled.user_S, tested))
    return np.stack(columns, axis=1).astype(np.float32)
