"""Whether ranking earns its place: the next item among what is served, and in retrieval's own order.

Shapes: U users, V items.
"""

from collections.abc import Mapping

import numpy as np
from typing_extensions import override

from experiments.scores import K, Measured, Values
from experiments.section import Question, Run
from experiments.variants import UNIFIED
from unipinrec.arrays import Int64s
from unipinrec.bundle import ServingDefaults
from unipinrec.data.interactions import InteractionDataset, Split
from unipinrec.evaluation.catalogue import ndcg_at_k, ranks_after, recall_at_k
from unipinrec.evaluation.leave_one_out import CHUNK_USERS, RetrievalScorer, request_before
from unipinrec.models.unified.offline import OfflineRecommender

RETRIEVED = "order of retrieval"
SERVED = "as served"


class ServedOrder(Question):
    """The held-out item of every user, sought in what a server answers and in what its retrieval finds."""

    title = "What is served"
    what = (
        f"The model retrieves twice as many items as are asked for, ranks them by the dataset's utility "
        f"weights and serves the {K} best, offline. The other order is that of its query embedding."
    )
    variants = (UNIFIED,)
    ways: Mapping[str, str] = {SERVED: "retrieved, then ranked by utility", RETRIEVED: "not ranked"}
    compared = ((SERVED, RETRIEVED, f"ndcg@{K}"), (SERVED, RETRIEVED, f"recall@{K}"))

    def __init__(self, dataset: InteractionDataset, split: Split) -> None:
        self._dataset = dataset
        self._user_U = np.flatnonzero(split.held_out_U)
        self._length_U = split.train_end_U[self._user_U] + 1
        self._defaults = ServingDefaults(
            num_results=K,
            utility_weights=dataset.info.utility_weights,
            outcome_weights=(0.0,) * len(dataset.info.actions),
        )

    @override
    def answers(self, recommenders: Mapping[str, OfflineRecommender]) -> Run:
        """Return both orders' Recall and NDCG with the model of one seed."""
        recommender = recommenders[UNIFIED.name]
        scorer = RetrievalScorer(recommender, self._dataset)
        retrieved_U = ranks_after(scorer, self._dataset, self._user_U, self._length_U, CHUNK_USERS)
        return {SERVED: self._measured(self._served(recommender)), RETRIEVED: self._measured(retrieved_U)}

    def _measured(self, rank_U: Int64s) -> Measured:
        metrics = {"recall": recall_at_k, "ndcg": ndcg_at_k}
        return Measured(
            {f"{n}@{K}": Values(metric(rank_U, K), self._user_U) for n, metric in metrics.items()}
        )

    def _served(self, recommender: OfflineRecommender) -> Int64s:
        """Each held-out item's rank in its user's answer, K + 1 where it is not there, [U]."""
        ranks = []
        for begin in range(0, len(self._user_U), CHUNK_USERS):
            part = slice(begin, begin + CHUNK_USERS)
            pairs = list(zip(self._user_U[part].tolist(), self._length_U[part].tolist(), strict=True))
            requests = [request_before(self._dataset, user, length) for user, length in pairs]
            answers = recommender.recommend(requests, K, self._defaults)
            for (user, length), answer in zip(pairs, answers, strict=True):
                target = self._dataset.history(user).item_row_N[length]
                place = np.flatnonzero(answer.item_row_K == target)
                ranks.append(int(place[0]) + 1 if len(place) else K + 1)
        return np.array(ranks, np.int64)
