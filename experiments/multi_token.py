"""Do several query embeddings find more than one, at equal total candidates? (PinRec §2.5 and §2.9)

Shapes: F requests, Q query embeddings, E item width.
"""

from collections.abc import Mapping

import numpy as np
from typing_extensions import override

from experiments.scores import K, Measured, Values
from experiments.section import Question, Run
from experiments.variants import MULTI_TOKEN, TWO_STEPS, UNIFIED
from unipinrec.arrays import Float32s
from unipinrec.evaluation.diversity import intra_list_diversity, item_coverage
from unipinrec.evaluation.future_feedviews import FutureFeedviews
from unipinrec.evaluation.query_sets import retrieve_union, unordered_recall
from unipinrec.evaluation.recommender import QueryEmbedder
from unipinrec.models.unified.queries import split_budget

HORIZON_DAYS = 7
STEPS = (2, 3, 6)
TOTAL = 6 * K
"""Candidates of every way of asking: ten for each of six embeddings, or as many for fewer."""
LATER = f"unordered recall, {HORIZON_DAYS} days"
NEXT = "unordered recall, next item"
DIVERSITY = "intra-list diversity"

ONE = f"{UNIFIED.name}: one embedding"
STEPWISE = {steps: f"{UNIFIED.name}: {steps} steps" for steps in STEPS}
TRAINED_ONE = f"{TWO_STEPS.name}: one embedding"
TRAINED = {steps: f"{TWO_STEPS.name}: {steps} steps" for steps in STEPS}
OFFSETS_ONE = f"{MULTI_TOKEN.name}: one embedding"
OFFSETS = f"{MULTI_TOKEN.name}: every time offset"

WAYS = {
    ONE: "trained for the next item alone",
    **dict.fromkeys(STEPWISE.values(), "the same model, each embedding fed back for the next"),
    TRAINED_ONE: "trained for two steps",
    **dict.fromkeys(TRAINED.values(), "the same model, each embedding fed back for the next"),
    OFFSETS_ONE: f"trained for {len(MULTI_TOKEN.model['time_offsets_s'])} time offsets; "
    "the immediate one takes all candidates",
    OFFSETS: "the same model",
}


class MultiToken(Question):
    """The same requests, with one query embedding and with several, each way with as many candidates."""

    title = "Several query embeddings"
    what = (
        f"{TOTAL} candidates for every request, split evenly over its query embeddings; an "
        f"embedding passes over what earlier ones found. Sought are the new items with a positive action "
        f"of the {HORIZON_DAYS} days from the request on, or the first of them in the slate that "
        f"followed. Coverage is the share of the catalogue that is found for anyone."
    )
    variants = (UNIFIED, TWO_STEPS, MULTI_TOKEN)
    ways = WAYS
    compared = tuple(
        (way, one, metric)
        for way, one in (*((way, ONE) for way in list(WAYS)[1:]), (TRAINED[2], TRAINED_ONE))
        for metric in (LATER, NEXT, DIVERSITY)
    )

    def __init__(self, views: FutureFeedviews) -> None:
        self._views = views
        self._later = views.later_targets(HORIZON_DAYS * 86_400)
        self._next_F = views.targets()

    @override
    def answers(self, recommenders: Mapping[str, QueryEmbedder]) -> Run:
        """Return recalls, diversity and coverage of every way with the models of one seed."""
        single, trained, several = (recommenders[variant.name] for variant in self.variants)
        any_outcome = [len(self._views.dataset.info.actions)]
        offsets_FSOE = self._views.query_embeddings(several, any_outcome, 1)[:, :, 0]
        run = {
            OFFSETS_ONE: self._measure(several, offsets_FSOE[:, :1, 0]),
            OFFSETS: self._measure(several, offsets_FSOE[:, 0]),
        }
        for recommender, one, stepwise in ((single, ONE, STEPWISE), (trained, TRAINED_ONE, TRAINED)):
            query_FSE = self._views.query_embeddings(recommender, any_outcome, max(STEPS))[:, :, 0, 0]
            run[one] = self._measure(recommender, query_FSE[:, :1])
            run |= {way: self._measure(recommender, query_FSE[:, :steps]) for steps, way in stepwise.items()}
        return {way: run[way] for way in self.ways}

    def _measure(self, recommender: QueryEmbedder, query_FQE: Float32s) -> Measured:
        vector_VE = recommender.item_vector_VE.numpy()
        seen = [request.history.item_row_N for request in self._views.requests()]
        budget_Q = split_budget(TOTAL, np.ones(query_FQE.shape[1]))
        found = retrieve_union(query_FQE, vector_VE, budget_Q, seen)
        user_F = self._views.user_F
        later = [index for index, rows in enumerate(self._later) if len(rows)]
        soon = np.flatnonzero(self._next_F >= 0)
        metrics = {
            LATER: Values(
                unordered_recall([found[f] for f in later], [self._later[f] for f in later]), user_F[later]
            ),
            NEXT: Values(
                unordered_recall([found[f] for f in soon], [self._next_F[f : f + 1] for f in soon]),
                user_F[soon],
            ),
            DIVERSITY: Values(intra_list_diversity(found, vector_VE), user_F),
        }
        return Measured(metrics, totals={"coverage": item_coverage(found, len(vector_VE), TOTAL)})
