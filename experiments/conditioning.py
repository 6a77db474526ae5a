"""Does asking for an action retrieve items that get it? Answered by the simulator's truth (PinRec §2.4).

Shapes: F requests, B those of one chunk, X outcomes asked for, V items, A actions, E item width, K retrieved
items.
"""

from collections.abc import Mapping

import numpy as np
from typing_extensions import override

from experiments.scores import K, Measured, Values
from experiments.section import Question, Run
from experiments.variants import UNIFIED
from unipinrec.arrays import Float64s, Int64s
from unipinrec.evaluation.future_feedviews import CHUNK_FEEDVIEWS, FutureFeedviews
from unipinrec.evaluation.query_sets import retrieve_union
from unipinrec.evaluation.recommender import QueryEmbedder
from unipinrec.simulator.truth import Truth

ANY = "any outcome"


class OutcomeConditioning(Question):
    """Retrieval for the same requests, asked for each positive action in turn and for none in particular."""

    title = "Outcome conditioning"
    what = (
        f"One immediate query embedding of the unified model, asked for an action or for none. "
        f"`true share` is the mean probability, in the simulator's truth, that the user would do this to "
        f"the {K} items found; `recall@{K}` seeks the first new item that got this action in the slate "
        f"that followed."
    )
    variants = (UNIFIED,)

    def __init__(self, views: FutureFeedviews, truth: Truth) -> None:
        info = views.dataset.info
        self._views = views
        self._truth = truth
        self._actions = [number for number, name in enumerate(info.actions) if name in info.positive_actions]
        self._names = names = [info.actions[number] for number in self._actions]
        self._targets = {action: views.targets(1 << action) for action in self._actions}
        self.ways = {ANY: "no outcome in particular"} | {name: f"asked for {name}" for name in names}
        self.compared = [(name, ANY, _share_of(name)) for name in names]
        self.compared += [
            (name, other, _recall_of(name)) for name in names for other in (ANY, *names) if name != other
        ]

    @override
    def answers(self, recommenders: Mapping[str, QueryEmbedder]) -> Run:
        """Return shares and recalls with the models of one seed."""
        recommender, views = recommenders[UNIFIED.name], self._views
        outcomes = [len(views.dataset.info.actions), *self._actions]
        query_FXE = views.query_embeddings(recommender, outcomes, 1)[:, 0, :, 0]
        vector_VE = recommender.item_vector_VE.numpy()
        seen = [request.history.item_row_N for request in views.requests()]
        found_XFK = np.stack(
            [retrieve_union(query_FXE[:, asked, None], vector_VE, K, seen) for asked in range(len(outcomes))]
        )
        run = {}
        for way, found_FK, share_FA in zip(self.ways, found_XFK, self._shares(found_XFK), strict=True):
            metrics = {}
            for action, name in zip(self._actions, self._names, strict=True):
                metrics[_share_of(name)] = Values(share_FA[:, action], views.user_F)
                target_F = self._targets[action]
                sought_F = target_F >= 0
                hit_F = (found_FK == target_F[:, None]).any(1)[sought_F].astype(np.float64)
                metrics[_recall_of(name)] = Values(hit_F, views.user_F[sought_F])
            run[way] = Measured(metrics)
        return run

    def _shares(self, found_XFK: Int64s) -> Float64s:
        """Mean probabilities of what was found, [X, F, A]."""
        feedview_F = self._views.feedview_F
        share_XFA = np.zeros((*found_XFK.shape[:2], len(self._views.dataset.info.actions)))
        for begin in range(0, len(feedview_F), CHUNK_FEEDVIEWS):
            chunk = slice(begin, begin + CHUNK_FEEDVIEWS)
            truth_BVA = self._truth.action_probabilities(feedview_F[chunk])
            row_B1 = np.arange(len(truth_BVA))[:, None]
            for action in range(truth_BVA.shape[2]):
                share_XFA[:, chunk, action] = truth_BVA[row_B1, found_XFK[:, chunk], action].mean(-1)
        return share_XFA


def _share_of(action: str) -> str:
    return f"true share of {action}"


def _recall_of(action: str) -> str:
    return f"recall@{K} of {action}"
