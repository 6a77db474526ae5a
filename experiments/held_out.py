"""What a comparison is measured on: the held-out part of a dataset, the same for every model."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from experiments.recipes import Recipe
from experiments.scores import (
    K,
    Measured,
    Values,
    calibration_errors,
    current_rates_scores,
    ranking_scores,
    rates_scores,
    retrieval_recall,
)
from experiments.variants import Variant
from unipinrec.arrays import Float32s
from unipinrec.data.interactions import InteractionDataset, Split, split_at_time, split_leave_one_out
from unipinrec.evaluation.catalogue import Scorer, ndcg_at_k, ranks_after, recall_at_k
from unipinrec.evaluation.future_feedviews import FutureFeedviews
from unipinrec.evaluation.leave_one_out import CHUNK_USERS, RetrievalScorer
from unipinrec.models.baselines.counting import Markov, Popularity
from unipinrec.simulator.truth import Truth


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
        return split_at_time(self.dataset, self.recipe.test_time(self.dataset)[0])

    @cached_property
    def views(self) -> FutureFeedviews:
        """Return the slates of the test time."""
        _, end = self.recipe.test_time(self.dataset)
        return FutureFeedviews.of(self.dataset, self.split, self.recipe.feedviews_per_user, end)

    def measure(self, variant: Variant, recommender: Any) -> Measured:
        """Return what a model reaches at the tasks that its variant is for.

        `recommender` is a `Retriever`, a `Ranker` or both, as the variant says.
        """
        if self.recipe.protocol == "leave_one_out":
            return self._leave_one_out(RetrievalScorer(recommender, self.dataset))
        found = Measured({})
        if variant.ranks:
            found = self._probabilities(self.views.probabilities(recommender))
        if variant.retrieves:
            found.metrics.update(retrieval_recall(self.views, recommender))
        return found

    def _leave_one_out(self, scorer: Scorer) -> Measured:
        """Recall@10 and NDCG@10 of every held-out user, over the full catalogue."""
        user_U = np.flatnonzero(self.split.held_out_U)
        rank_U = ranks_after(scorer, self.dataset, user_U, self.split.train_end_U[user_U] + 1, CHUNK_USERS)
        recall, ndcg = (Values(metric(rank_U, K), user_U) for metric in (recall_at_k, ndcg_at_k))
        return Measured({f"recall@{K}": recall, f"ndcg@{K}": ndcg})

    def baselines(self) -> dict[tuple[str, str], Measured]:
        """Return what counting reaches, and in a simulation the truth, by name and description."""
        if self.recipe.protocol == "leave_one_out":
            history_U = self.split.train_end_U + 1
            popularity = Popularity(self.dataset, history_U)
            markov = Markov(self.dataset, history_U, popularity)
            return {
                ("markov", "first-order transitions, popularity fill"): self._leave_one_out(markov),
                ("popularity", "number of events"): self._leave_one_out(popularity),
            }
        views, split = self.views, self.split
        scores = {
            ("rates", "smoothed user rate x item rate"): rates_scores(views, split),
            ("current_rates", "the same, of users as they ask and with items' attributes"): (
                current_rates_scores(views, split)
            ),
        }
        if self.truth is not None:
            feedview_S = np.repeat(self.views.feedview_F, np.diff(self.views.offsets))
            row_S = np.concatenate(self.views.items())
            best_SA = self.truth.shown_probabilities(feedview_S, row_S)
            truth = "truth", "the simulator's own probabilities: no model can do better"
            return {key: ranking_scores(views, score_SA) for key, score_SA in scores.items()} | {
                truth: self._probabilities(best_SA)
            }
        return {key: ranking_scores(views, score_SA) for key, score_SA in scores.items()}

    def _probabilities(self, probability_SA: Float32s) -> Measured:
        found = ranking_scores(self.views, probability_SA)
        found.totals.update(calibration_errors(self.views, probability_SA))
        return found
