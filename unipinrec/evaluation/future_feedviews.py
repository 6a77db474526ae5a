"""Held-out feedviews: what a model makes of slates it never trained on, and of the catalogue behind them.

Shapes: F feedviews, S shown items of all of them, K shown items of one, V items of the catalogue, A actions.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unipinrec.data.interactions import InteractionDataset, Split
from unipinrec.evaluation.catalogue import rank_of_target
from unipinrec.evaluation.recommender import Ranker, Retriever
from unipinrec.models.common.offline import OfflineRequest

CHUNK_FEEDVIEWS = 128


@dataclass(frozen=True, slots=True)
class FutureFeedviews:
    """The first feedviews of every user from the start of a split's test time on.

    A request's history is everything before its feedview, also what lies after the start of the test time.
    """

    dataset: InteractionDataset
    feedview_F: NDArray[np.int64]
    user_F: NDArray[np.int64]

    @classmethod
    def of(cls, dataset: InteractionDataset, split: Split, most_per_user: int) -> "FutureFeedviews":
        """At most `most_per_user` feedviews of each user."""
        views = dataset.feedviews
        user_F = np.repeat(np.arange(len(dataset.user_ids_U)), np.diff(views.offset_U1))
        held_F = np.flatnonzero(views.timestamp_F >= split.test_begin_U[user_F])
        first_F = np.searchsorted(user_F[held_F], user_F[held_F])
        kept_F = held_F[np.arange(len(held_F)) - first_F < most_per_user]
        return cls(dataset, kept_F, user_F[kept_F])

    def requests(self) -> list[OfflineRequest]:
        """What would have been asked, [F]."""
        made = []
        for feedview, user in zip(self.feedview_F.tolist(), self.user_F.tolist(), strict=True):
            view = self.dataset.feedviews.view(feedview)
            history = self.dataset.history(user)[: view.start]
            made.append(OfflineRequest(history=history, request_time=view.timestamp, surface=view.surface))
        return made

    def items(self) -> list[NDArray[np.int64]]:
        """Rows of what was shown, [F] of [K]."""
        return [self.dataset.feedviews.view(feedview).item_row_K for feedview in self.feedview_F.tolist()]

    def labels(self) -> NDArray[np.bool_]:
        """Which shown items got which action, [S, A]."""
        views = [self.dataset.feedviews.view(feedview).actions_K for feedview in self.feedview_F.tolist()]
        bit_A = 1 << np.arange(len(self.dataset.info.actions))
        label_SA: NDArray[np.bool_] = (np.concatenate(views)[:, None] & bit_A) != 0
        return label_SA

    def offsets(self) -> NDArray[np.int64]:
        """Where each feedview's items begin among all, [F + 1]."""
        return np.concatenate([[0], np.cumsum([len(row_K) for row_K in self.items()])]).astype(np.int64)

    def targets(self, action_mask: int | None = None) -> NDArray[np.int64]:
        """Each feedview's first item with one of the actions that is not in the history, or -1, [F].

        `action_mask` is a bitmask; without it, any positive action counts.
        """
        wanted = self.dataset.positive_mask if action_mask is None else action_mask
        found = []
        for feedview, user in zip(self.feedview_F.tolist(), self.user_F.tolist(), strict=True):
            view = self.dataset.feedviews.view(feedview)
            before_N = self.dataset.history(user).item_row_N[: view.start]
            wanted_K = (view.actions_K & wanted) != 0
            fresh_K = view.item_row_K[wanted_K & ~np.isin(view.item_row_K, before_N)]
            found.append(int(fresh_K[0]) if len(fresh_K) else -1)
        return np.array(found, np.int64)

    def later_targets(self, horizon_s: int) -> list[NDArray[np.int64]]:
        """Items of each user's positive events in the `horizon_s` seconds from the feedview on.

        [F] of distinct rows that are not in the history.
        """
        found = []
        for feedview, user in zip(self.feedview_F.tolist(), self.user_F.tolist(), strict=True):
            view = self.dataset.feedviews.view(feedview)
            whole = self.dataset.history(user)
            before, later = whole[: view.start], whole[view.start :]
            wanted_N = (later.actions_N & self.dataset.positive_mask) != 0
            wanted_N &= later.timestamp_N <= view.timestamp + horizon_s
            found.append(np.setdiff1d(later.item_row_N[wanted_N], before.item_row_N))
        return found

    def probabilities(self, recommender: Ranker) -> NDArray[np.float32]:
        """Predicted probabilities of what was shown, [S, A]."""
        requests, items = self.requests(), self.items()
        parts = []
        for begin in range(0, len(requests), CHUNK_FEEDVIEWS):
            chunk = slice(begin, begin + CHUNK_FEEDVIEWS)
            parts += recommender.action_probabilities(requests[chunk], items[chunk])
        return np.concatenate([part.numpy() for part in parts])

    def ranks(self, recommender: Retriever) -> NDArray[np.int64]:
        """Rank of each target in the catalogue without the user's history; 0 without a target, [F]."""
        requests, target_F = self.requests(), self.targets()
        rank_F = np.zeros(len(requests), np.int64)
        sought = np.flatnonzero(target_F >= 0)
        for begin in range(0, len(sought), CHUNK_FEEDVIEWS):
            chosen = sought[begin : begin + CHUNK_FEEDVIEWS]
            scores_BV = recommender.retrieval_scores([requests[index] for index in chosen]).numpy()
            for index, scores_V in zip(chosen, scores_BV, strict=True):
                seen_N = requests[index].history.item_row_N
                rank_F[index] = rank_of_target(scores_V, int(target_F[index]), seen_N)
        return rank_F
