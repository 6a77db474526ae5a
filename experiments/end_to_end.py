"""What two rankers show against what one does, judged by the simulator's truth.

Shapes: F requests, K candidates of one, P those of all requests, A actions, O time offsets, E item width.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from typing_extensions import override

from experiments.scores import K as SHOWN
from experiments.scores import Measured, Values
from experiments.section import Question, Run
from experiments.variants import UNIFIED, Variant
from unipinrec.arrays import Float32s, Float64s, Int64s
from unipinrec.evaluation.future_feedviews import FutureFeedviews
from unipinrec.evaluation.query_sets import retrieve_union
from unipinrec.evaluation.recommender import QueryEmbedder
from unipinrec.simulator.truth import Truth

CANDIDATES = 64
RETRIEVED = "retrieval alone"
ONE = "recommend"
BEST = "best possible"
UTILITY = f"true utility of {SHOWN} shown"


class EndToEnd(Question):
    """The same candidates of the first model, in the order of one ranker after another."""

    title = "Two rankers, end to end"
    what = (
        f"The first model retrieves {CANDIDATES} new items for every request, and each ranker orders the "
        f"same ones by the dataset's utility weights, offline. Of the {SHOWN} first, which are shown, the "
        f"truth of the simulator tells the expected utility and number of actions."
    )

    def __init__(self, views: FutureFeedviews, truth: Truth, second: Sequence[Variant]) -> None:
        self._views, self._truth = views, truth
        self._second = {f"recommend_full: {variant.name}": variant.name for variant in second}
        self.variants = (UNIFIED, *second)
        self.ways = {
            RETRIEVED: "in the order of the query embedding",
            ONE: "the first ranker",
            **dict.fromkeys(self._second, "the second ranker behind it"),
            BEST: "the same candidates in the order of the truth",
        }
        metrics = [UTILITY, *(f"true {action}" for action in views.dataset.info.actions)]
        self.compared = [(way, ONE, metric) for way in self._second for metric in metrics]

    @override
    def answers(self, recommenders: Mapping[str, Any]) -> Run:
        """Return what every way of ranking shows with the models of one seed."""
        candidates = self._candidates(recommenders[UNIFIED.name])
        size_F = [len(row_K) for row_K in candidates]
        feedview_P = np.repeat(self._views.feedview_F, size_F)
        true_PA = self._truth.shown_probabilities(feedview_P, np.concatenate(candidates))
        # Candidates come best first.
        score_P = {RETRIEVED: -np.arange(len(feedview_P), dtype=np.float64), BEST: self._utility(true_PA)}
        rankers = {ONE: UNIFIED.name, **self._second}
        for way, name in rankers.items():
            score_P[way] = self._utility(self._views.probabilities(recommenders[name], candidates))
        ends = np.cumsum(size_F)[:-1]
        truths = np.split(true_PA, ends)
        return {way: self._shown(candidates, np.split(score_P[way], ends), truths) for way in self.ways}

    def _candidates(self, recommender: QueryEmbedder) -> list[Int64s]:
        any_outcome = [len(self._views.dataset.info.actions)]
        query_FOE = self._views.query_embeddings(recommender, any_outcome, 1)[:, 0, 0]
        seen = [request.history.item_row_N for request in self._views.requests()]
        return retrieve_union(query_FOE[:, :1], recommender.item_vector_VE.numpy(), CANDIDATES, seen)

    def _utility(self, probability_PA: Float32s) -> Float64s:
        utility_P: Float64s = probability_PA @ np.array(self._views.dataset.info.utility_weights)
        return utility_P

    def _shown(
        self, candidates: Sequence[Int64s], scores: Sequence[Float64s], truths: Sequence[Float32s]
    ) -> Measured:
        """Sums over what is shown of each request: the highest scores, of equal ones the lower row first."""
        true_FA = np.stack(
            [
                true_KA[np.lexsort((row_K, -score_K))[:SHOWN]].sum(axis=0)
                for row_K, score_K, true_KA in zip(candidates, scores, truths, strict=True)
            ]
        )
        user_F = self._views.user_F
        actions = zip(self._views.dataset.info.actions, true_FA.T.astype(np.float64), strict=True)
        return Measured(
            {UTILITY: Values(self._utility(true_FA), user_F)}
            | {f"true {action}": Values(true_F, user_F) for action, true_F in actions}
        )
