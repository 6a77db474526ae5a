"""Does asking for an action retrieve items that get it? Answered by the simulator's truth (PinRec §2.4).

Shapes: B requests, X outcomes asked for, V items, A actions, E item width, K retrieved items.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product

import numpy as np
import torch
from typing_extensions import override

from experiments.scores import K, Measured, Values
from experiments.section import Question, Run
from experiments.variants import UNIFIED
from unipinrec.arrays import Int64s
from unipinrec.evaluation.future_feedviews import CHUNK_FEEDVIEWS, FutureFeedviews
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
        ways = [ANY, *self._names]
        outcomes = [len(self._views.dataset.info.actions), *self._actions]
        requests = len(self._views.feedview_F)
        share_FXA = np.zeros((requests, len(ways), len(self._actions)))
        hit_FXA = np.zeros_like(share_FXA)
        for chunk, found_BXK in self._found(recommenders[UNIFIED.name], outcomes):
            truth_BVA = self._truth.action_probabilities(self._views.feedview_F[chunk])
            row_B1 = np.arange(len(truth_BVA))[:, None]
            for asked, (place, action) in product(range(len(ways)), enumerate(self._actions)):
                found_BK = found_BXK[:, asked]
                share_FXA[chunk, asked, place] = truth_BVA[row_B1, found_BK, action].mean(1)
                target_B1 = self._targets[action][chunk, None]
                hit_FXA[chunk, asked, place] = (found_BK == target_B1).any(1)
        run = {}
        for asked, way in enumerate(ways):
            metrics = {}
            for place, (action, name) in enumerate(zip(self._actions, self._names, strict=True)):
                metrics[_share_of(name)] = Values(share_FXA[:, asked, place], self._views.user_F)
                sought_F = self._targets[action] >= 0
                metrics[_recall_of(name)] = Values(
                    hit_FXA[sought_F, asked, place], self._views.user_F[sought_F]
                )
            run[way] = Measured(metrics)
        return run

    def _found(self, recommender: QueryEmbedder, outcomes: Sequence[int]) -> Iterator[tuple[slice, Int64s]]:
        """Rows [B, X, K] of the best items outside each history, chunk by chunk of requests."""
        requests = self._views.requests()
        for begin in range(0, len(requests), CHUNK_FEEDVIEWS):
            chunk = slice(begin, begin + CHUNK_FEEDVIEWS)
            query_BSXOE = recommender.query_embeddings(requests[chunk], outcomes, 1, outcomes[0])
            score_BXV = query_BSXOE[:, 0, :, 0] @ recommender.item_vector_VE.T
            for score_XV, request in zip(score_BXV, requests[chunk], strict=True):
                score_XV[:, torch.from_numpy(request.history.item_row_N)] = -torch.inf
            yield chunk, score_BXV.topk(K).indices.numpy()


def _share_of(action: str) -> str:
    return f"true share of {action}"


def _recall_of(action: str) -> str:
    return f"recall@{K} of {action}"
