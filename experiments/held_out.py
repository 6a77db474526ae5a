"""What a comparison is measured on: the held-out part of a dataset, the same for every model."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from experiments.recipes import Recipe
from experiments.scores import Labelled, Values, leave_one_out_values, rates_scores
from experiments.variants import Variant
from unipinrec.data.interactions import InteractionDataset, Split, split_at_time, split_leave_one_out
from unipinrec.evaluation.bootstrap import Estimate
from unipinrec.evaluation.future_feedviews import FutureFeedviews
from unipinrec.evaluation.leave_one_out import RetrievalScorer
from unipinrec.models.baselines.counting import Markov, Popularity
from unipinrec.simulator.truth import Truth


@dataclass(frozen=True, slots=True)
class Measured:
    """What one model reached."""

    metrics: dict[str, Values]
    areas: dict[str, Estimate]
    """Metrics that have no value per user."""

    def means(self) -> dict[str, float]:
        """Return all metrics without intervals."""
        means = {name: float(values.value_X.mean()) for name, values in self.metrics.items()}
        return means | {name: area.mean for name, area in self.areas.items()}


@dataclass(frozen=True)
class HeldOut:
    """A dataset, its split by a recipe's protocol, and the truth if it is simulated."""

    recipe: Recipe
    dataset: InteractionDataset
    truth: Truth | None = None

    @cached_property
    def split(self) -> Split:
        """Return what training may see."""
        if self.recipe.protocol == "leave_one_out":
            return split_leave_one_out(self.dataset)
        time_F = self.dataset.feedviews.timestamp_F
        return split_at_time(self.dataset, int(np.quantile(time_F, 1 - self.recipe.test_share)))

    @cached_property
    def views(self) -> FutureFeedviews:
        """Return the slates after the cut."""
        return FutureFeedviews.of(self.dataset, self.split, self.recipe.feedviews_per_user)

    @cached_property
    def labelled(self) -> Labelled:
        """Return the slates with their labels."""
        return Labelled.of(self.views)

    def measure(self, variant: Variant, recommender: Any) -> Measured:
        """Return what a model reaches at the tasks that its variant is for.

        `recommender` is a `Retriever`, a `Ranker` or both, as the variant says.
        """
        if self.recipe.protocol == "leave_one_out":
            scorer = RetrievalScorer(recommender, self.dataset)
            return Measured(leave_one_out_values(scorer, self.dataset, self.split), {})
        metrics: dict[str, Values] = {}
        areas: dict[str, Estimate] = {}
        if variant.ranks:
            score_SA = self.views.probabilities(recommender)
            metrics |= self.labelled.hits(score_SA)
            areas |= self.labelled.areas(score_SA)
        if variant.retrieves:
            metrics |= self.labelled.recall(recommender)
        return Measured(metrics, areas)

    def baselines(self) -> dict[tuple[str, str], Measured]:
        """Return what counting reaches, and in a simulation the truth, by name and description."""
        if self.recipe.protocol == "leave_one_out":
            history_U = self.split.train_end_U + 1
            popularity = Popularity(self.dataset, history_U)
            markov = Markov(self.dataset, history_U, popularity)
            return {
                (name, what): Measured(leave_one_out_values(scorer, self.dataset, self.split), {})
                for name, what, scorer in (
                    ("markov", "first-order transitions, popularity fill", markov),
                    ("popularity", "number of events", popularity),
                )
            }
        scores = {("rates", "smoothed user rate x item rate"): rates_scores(self.labelled, self.split)}
        if self.truth is not None:
            feedview_S = np.repeat(self.views.feedview_F, np.diff(self.labelled.offset_F1))
            row_S = np.concatenate(self.views.items())
            best_SA = self.truth.shown_probabilities(feedview_S, row_S)
            scores["truth", "the simulator's own probabilities: no model can do better"] = best_SA
        return {
            key: Measured(self.labelled.hits(score_SA), self.labelled.areas(score_SA))
            for key, score_SA in scores.items()
        }
