"""Held-out recommendation quality of a model beside baselines, over the full catalogue.

Protocol: leave one out. The last event of every user who has at least three is the target; the history
is everything before it; its items are left out of the ranking. The request's time is the target's.

Shapes: U users, B users of one chunk, V items.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from unipinrec.arrays import Float32s, Int64s
from unipinrec.data.interactions import InteractionDataset, split_leave_one_out
from unipinrec.evaluation.bootstrap import Estimate, estimate
from unipinrec.evaluation.catalogue import Scorer, ndcg_at_k, ranks_after, recall_at_k
from unipinrec.evaluation.recommender import Retriever
from unipinrec.models.baselines.counting import Markov, Popularity
from unipinrec.models.common.offline import OfflineRequest

Quality = dict[str, dict[str, Estimate]]
"""Recommender to metric to its estimate."""

K = 10
CHUNK_USERS = 64


def request_before(dataset: InteractionDataset, user: int, length: int) -> OfflineRequest:
    """Return the request whose answer should hold the user's event at `length`, which must exist."""
    history = dataset.history(user)
    return OfflineRequest(
        history=history[:length],
        request_time=int(history.timestamp_N[length]),
        surface=int(history.surface_N[length]),
    )


@dataclass(frozen=True, slots=True)
class RetrievalScorer:
    """Scores of every item by a model's retrieval, the first stage alone. A `catalogue.Scorer`."""

    recommender: Retriever
    dataset: InteractionDataset

    def __call__(self, user_B: Int64s, length_B: Int64s) -> Float32s:
        """Scores [B, V]."""
        pairs = zip(user_B.tolist(), length_B.tolist(), strict=True)
        requests = [request_before(self.dataset, user, length) for user, length in pairs]
        return self.recommender.retrieval_scores(requests).numpy()


def evaluate_leave_one_out(
    recommender: Retriever, dataset: InteractionDataset, report: Callable[[str], None]
) -> Quality:
    """Return Recall@10 and NDCG@10 of retrieval, popularity and Markov; `report` gets a line each."""
    split = split_leave_one_out(dataset)
    user_U = np.flatnonzero(split.held_out_U)
    history_U = split.train_end_U + 1
    popularity = Popularity(dataset, history_U)
    scorers: dict[str, Scorer] = {
        "popularity": popularity,
        "markov": Markov(dataset, history_U, popularity),
        "unipinrec_retrieval": RetrievalScorer(recommender, dataset),
    }
    quality: Quality = {}
    for name, scorer in scorers.items():
        rank_U = ranks_after(scorer, dataset, user_U, history_U[user_U], CHUNK_USERS)
        quality[name] = {
            f"recall@{K}": estimate(recall_at_k(rank_U, K)),
            f"ndcg@{K}": estimate(ndcg_at_k(rank_U, K)),
        }
        found = quality[name][f"recall@{K}"]
        report(f"{name}: Recall@{K} {found.mean:.4f} ({found.low:.4f} to {found.high:.4f})")
    return quality
