"""Does asking for an action retrieve items that get it? Answered by the simulator's truth (PinRec §2.4).

Shapes: B requests, X outcomes asked for, V items, A actions, E item width, K retrieved items.
"""

from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray

from experiments.scores import K, Values
from experiments.section import Answers, Question, Run
from unipinrec.evaluation.future_feedviews import CHUNK_FEEDVIEWS, FutureFeedviews
from unipinrec.evaluation.recommender import QueryEmbedder
from unipinrec.simulator.truth import Truth

ANY = "any outcome"


class OutcomeConditioning:
    """Retrieval for the same requests, asked for each positive action in turn and for none in particular."""

    def __init__(self, views: FutureFeedviews, truth: Truth) -> None:
        info = views.dataset.info
        self._views = views
        self._truth = truth
        self._actions = [number for number, name in enumerate(info.actions) if name in info.positive_actions]
        self._names = [info.actions[number] for number in self._actions]
        self._targets = {action: views.targets(1 << action) for action in self._actions}

    def question(self) -> Question:
        """Return how the answers are shown."""
        shares = [(name, ANY, share_of(name)) for name in self._names]
        recalls = [(name, other, recall_of(name)) for name in self._names for other in (ANY, *self._names)]
        return Question(
            title="Outcome conditioning",
            what=f"One immediate query embedding of the unified model, asked for an action or for none. "
            f"`true share` is the mean probability, in the simulator's truth, that the user would do this to "
            f"the {K} items found; `recall@{K}` seeks the first new item that got this action in the slate "
            f"that followed.",
            ways={ANY: "no outcome in particular"} | {name: f"asked for {name}" for name in self._names},
            compared=[*shares, *(pair for pair in recalls if pair[0] != pair[1])],
        )

    def answers(self, recommender: QueryEmbedder) -> Run:
        """Return shares and recalls with a trained model."""
        ways = [ANY, *self._names]
        outcomes = [len(self._views.dataset.info.actions), *self._actions]
        requests = len(self._views.feedview_F)
        share_FXA = np.zeros((requests, len(ways), len(self._actions)))
        hit_FXA = np.zeros_like(share_FXA)
        for chunk, found_BXK in self._found(recommender, outcomes):
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
                metrics[share_of(name)] = Values(share_FXA[:, asked, place], self._views.user_F)
                sought_F = self._targets[action] >= 0
                metrics[recall_of(name)] = Values(
                    hit_FXA[sought_F, asked, place], self._views.user_F[sought_F]
                )
            run[way] = Answers(metrics)
        return run

    def _found(
        self, recommender: QueryEmbedder, outcomes: Sequence[int]
    ) -> Iterator[tuple[slice, NDArray[np.int64]]]:
        """Rows [B, X, K] of the best items outside each history, chunk by chunk of requests."""
        requests = self._views.requests()
        for begin in range(0, len(requests), CHUNK_FEEDVIEWS):
            chunk = slice(begin, begin + CHUNK_FEEDVIEWS)
            query_BSXOE = recommender.query_embeddings(requests[chunk], outcomes, 1, outcomes[0])
            score_BXV = query_BSXOE[:, 0, :, 0] @ recommender.item_vector_VE.T
            for score_XV, request in zip(score_BXV, requests[chunk], strict=True):
                score_XV[:, torch.from_numpy(request.history.item_row_N)] = -torch.inf
            yield chunk, score_BXV.topk(K).indices.numpy()


def share_of(action: str) -> str:
    """Return the name of a metric."""
    return f"true share of {action}"


def recall_of(action: str) -> str:
    """Return the name of a metric."""
    return f"recall@{K} of {action}"
