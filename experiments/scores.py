"""Values per user of every metric, for one trained model.

Shapes: X users or feedviews, S shown items, A actions.
"""

from collections.abc import Sequence
from dataclasses import astuple, dataclass, field
from typing import Self

import numpy as np

from unipinrec.arrays import Bools, Float32s, Float64s, Int64s
from unipinrec.data.interactions import Split
from unipinrec.data.sequences import sequences_of
from unipinrec.evaluation.auc import auc_estimate, gauc
from unipinrec.evaluation.bootstrap import Estimate, difference, estimate
from unipinrec.evaluation.calibration import calibration
from unipinrec.evaluation.catalogue import recall_at_k
from unipinrec.evaluation.feedviews import hit_at_k
from unipinrec.evaluation.future_feedviews import FutureFeedviews
from unipinrec.evaluation.recommender import Retriever
from unipinrec.models.baselines.rates import Rates, Shown, choose_strength
from unipinrec.models.transact.examples import SlateConfig, SlateExamples

K = 10
HITS = 3


@dataclass(frozen=True, slots=True)
class Values:
    """One metric's values and whose they are; users are resampled whole."""

    value_X: Float64s
    user_X: Int64s

    def estimate(self) -> Estimate:
        """Return the mean and its interval."""
        return estimate(self.value_X, cluster_X=self.user_X)

    def minus(self, other: "Values") -> Estimate:
        """Return the paired difference over the same users."""
        return difference(self.value_X, other.value_X, cluster_X=self.user_X)


@dataclass(frozen=True, slots=True)
class Measured:
    """What one model, or one way of asking it, reached."""

    metrics: dict[str, Values]
    areas: dict[str, Estimate] = field(default_factory=dict)
    """Metrics that have no value per user."""
    totals: dict[str, float] = field(default_factory=dict)
    """Statistics of all users together, which have no interval."""

    @classmethod
    def mean(cls, runs: Sequence[Self]) -> Self:
        """Return means over training runs: each user's, those of areas with the ends of their intervals."""
        metrics = {
            name: Values(np.mean([run.metrics[name].value_X for run in runs], axis=0), values.user_X)
            for name, values in runs[0].metrics.items()
        }
        areas = {
            name: Estimate(*np.mean([astuple(run.areas[name]) for run in runs], axis=0).tolist())
            for name in runs[0].areas
        }
        totals = {name: float(np.mean([run.totals[name] for run in runs])) for name in runs[0].totals}
        return cls(metrics, areas, totals)

    def estimates(self) -> dict[str, Estimate]:
        """Return all metrics with their intervals."""
        return {name: values.estimate() for name, values in self.metrics.items()} | self.areas

    def means(self) -> dict[str, float]:
        """Return all metrics without intervals."""
        means = {name: float(values.value_X.mean()) for name, values in self.metrics.items()}
        return means | {name: area.mean for name, area in self.areas.items()}


def by_seed(runs: Sequence[Measured]) -> dict[str, tuple[float, ...]]:
    """Return every metric's mean in each training run."""
    return {name: tuple(run.means()[name] for run in runs) for name in runs[0].means()}


def ranking_scores(views: FutureFeedviews, score_SA: Float32s) -> Measured:
    """Return Hit@3 of every action that occurs, and AUC and gAUC, by user and by slate, of those that do not
    always occur."""
    hit_FA = hit_at_k(score_SA, views.labels, views.offsets, HITS)
    found = Measured({})
    for action, name in enumerate(views.dataset.info.actions):
        with_action_F, label_S = ~np.isnan(hit_FA[:, action]), views.labels[:, action]
        if with_action_F.any():
            values = Values(hit_FA[with_action_F, action], views.user_F[with_action_F])
            found.metrics[f"hit@{HITS} {name}"] = values
        if label_S.any() and not label_S.all():
            found.areas[f"auc {name}"] = auc_estimate(score_SA[:, action], label_S, views.users_of_items)
            within = areas_within(views, score_SA[:, action], label_S)
            found.areas.update({f"{kind} {name}": area for kind, area in within.items()})
    return found


def calibration_errors(views: FutureFeedviews, probability_SA: Float32s) -> dict[str, float]:
    """Return the expected calibration error of every action that occurs."""
    return {
        f"ece {name}": calibration(probability_SA[:, action], views.labels[:, action]).error
        for action, name in enumerate(views.dataset.info.actions)
        if views.labels[:, action].any()
    }


def areas_within(
    views: FutureFeedviews, score_S: Float32s, label_S: Bools, other_S: Float32s | None = None
) -> dict[str, Estimate]:
    """Return gAUC by user and by slate, or their differences from those of other scores, where there are any.

    All items of a slate are scored with the same knowledge of the user. Between slates of one user, labels of
    earlier ones become known, and whoever follows them gains across users and loses within.
    """
    found = {}
    for kind, group_S in (("gauc", views.users_of_items), ("slate gauc", views.slates_of_items)):
        shown_G, positives_G = np.bincount(group_S), np.bincount(group_S, label_S)
        if ((positives_G > 0) & (positives_G < shown_G)).any():
            found[kind] = gauc(score_S, label_S, views.users_of_items, group_S=group_S, other_S=other_S)
    return found


def retrieval_recall(views: FutureFeedviews, recommender: Retriever) -> dict[str, Values]:
    """Return Recall@10 of each feedview's first new positive item, over the full catalogue."""
    rank_F = views.ranks(recommender)
    sought_F = rank_F > 0
    return {f"recall@{K}": Values(recall_at_k(rank_F[sought_F], K), views.user_F[sought_F])}


@dataclass(frozen=True, slots=True)
class SequenceLimits:
    """Rows that current rates of users are counted from."""

    max_events: int = 16_000
    max_impressions: int = 1_000


def current_rates_scores(held_out: FutureFeedviews, split: Split) -> Float32s:
    """Return log-odds of every action by counting alone, [S, A], as the second ranker starts from them.

    Rates of users are those of their latest rows before the feedview, also after the start of the test time.
    Those of items are fitted on all shown before it, and pulled towards those of their attributes.
    """
    limits = SequenceLimits()
    rates = SlateExamples(held_out.dataset, limits, SlateConfig(), split).base_rates()
    users = rates.users(sequences_of(held_out.requests(), limits), limits)
    items = rates.items(np.concatenate(held_out.items()))
    user_SA = np.repeat(users.user_rate_RA, np.diff(held_out.offsets), axis=0)
    return rates.prior_A + user_SA + items.item_rate_CA + items.attribute_rate_CA


def rates_scores(held_out: FutureFeedviews, split: Split) -> Float32s:
    """Return user rate times item rate for every action, fitted on all shown before the test time, [S, A].

    How strongly rates are smoothed is chosen on the last fifth of the training time.
    """
    dataset = held_out.dataset
    views = dataset.feedviews
    size_F = np.diff(views.shown_offset_F1)
    user_F = np.repeat(np.arange(len(dataset.user_ids_U)), np.diff(views.offset_U1))
    train_F = views.timestamp_F < split.test_begin_U[user_F]
    fitted_F = views.timestamp_F < np.quantile(views.timestamp_F[train_F], 0.8)
    train_S, fitted_S = np.repeat(train_F, size_F), np.repeat(train_F & fitted_F, size_F)
    user_S = np.repeat(user_F, size_F)
    tested = np.concatenate(held_out.items())
    users, items = len(dataset.user_ids_U), len(dataset.item_ids_V)
    columns = []
    for action in range(len(dataset.info.actions)):
        acted_S = (views.actions_S >> action) & 1 == 1

        def part(chosen_S: Bools, acted_S: Bools = acted_S) -> Shown:
            return Shown(user_S[chosen_S], views.item_row_S[chosen_S], acted_S[chosen_S])

        fitted, chosen = part(fitted_S), part(train_S & ~fitted_S)
        if not (fitted.label_S.any() and chosen.label_S.any() and not chosen.label_S.all()):
            columns.append(np.zeros(len(tested)))
            continue
        strength = choose_strength(fitted, chosen, users, items)
        columns.append(Rates(part(train_S), users, items, strength)(held_out.users_of_items, tested))
    return np.stack(columns, axis=1).astype(np.float32)
