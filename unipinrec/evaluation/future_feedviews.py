"""Held-out feedviews: what a model makes of slates it never trained on, and of the catalogue behind them.

Shapes: F feedviews, S shown items of all of them or steps, K shown items of one, V items of the catalogue,
A actions, X outcomes asked for, O time offsets, E item width.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from unipinrec.arrays import Bools, Float32s, Int64s
from unipinrec.data.feedviews import Feedview
from unipinrec.data.history import UNKNOWN_ROW, History
from unipinrec.data.impressions_log import ImpressionLog
from unipinrec.data.interactions import FOREVER, InteractionDataset, Split
from unipinrec.evaluation.catalogue import rank_of_target
from unipinrec.evaluation.recommender import QueryEmbedder, Ranker, Retriever
from unipinrec.models.common.offline import OfflineRequest

CHUNK_FEEDVIEWS = 128


@dataclass(frozen=True)
class FutureFeedviews:
    """The first feedviews of every user from the start of a split's test time on, up to its end.

    A request's history and impressions are everything before its feedview, also what lies after the start of
    the test time.
    """

    dataset: InteractionDataset
    feedview_F: Int64s
    user_F: Int64s

    @classmethod
    def of(
        cls, dataset: InteractionDataset, split: Split, most_per_user: int, end: int = FOREVER
    ) -> "FutureFeedviews":
        """Return each user's first `most_per_user` feedviews, those of them before `end`, in unix seconds."""
        views = dataset.feedviews
        user_F = np.repeat(np.arange(len(dataset.user_ids_U)), np.diff(views.offset_U1))
        held_F = np.flatnonzero(views.timestamp_F >= split.test_begin_U[user_F])
        first_F = np.searchsorted(user_F[held_F], user_F[held_F])
        kept_F = held_F[np.arange(len(held_F)) - first_F < most_per_user]
        kept_F = kept_F[views.timestamp_F[kept_F] < end]
        return cls(dataset, kept_F, user_F[kept_F])

    def requests(self) -> list[OfflineRequest]:
        """Return what would have been asked, [F]."""
        shown = ImpressionLog.of(self.dataset)
        return [
            OfflineRequest(
                history=whole[: view.start],
                request_time=view.timestamp,
                surface=view.surface,
                impressions=shown.before(feedview),
            )
            for feedview, (view, whole) in zip(self.feedview_F.tolist(), self._with_histories(), strict=True)
        ]

    def items(self) -> list[Int64s]:
        """Return the item rows of what was shown, [F] of [K]."""
        return [view.item_row_K for view, _ in self._with_histories()]

    @cached_property
    def labels(self) -> Bools:
        """Return which shown items got which action, [S, A]."""
        actions_S = np.concatenate([view.actions_K for view, _ in self._with_histories()])
        bit_A = 1 << np.arange(len(self.dataset.info.actions))
        return (actions_S[:, None] & bit_A) != 0

    @cached_property
    def offsets(self) -> Int64s:
        """Return where each feedview's items begin among all, [F + 1]."""
        return np.concatenate([[0], np.cumsum([len(row_K) for row_K in self.items()])]).astype(np.int64)

    @cached_property
    def users_of_items(self) -> Int64s:
        """Return who was shown each item, [S]."""
        return np.repeat(self.user_F, np.diff(self.offsets))

    @cached_property
    def slates_of_items(self) -> Int64s:
        """Return which of the feedviews showed each item, [S] of 0 to F - 1."""
        return np.repeat(np.arange(len(self.feedview_F)), np.diff(self.offsets))

    def targets(self, action_mask: int | None = None) -> Int64s:
        """Return each feedview's first item with a wanted action that is not in the history, or -1, [F].

        `action_mask` is a bitmask of the wanted actions; without it, any positive action counts.
        """
        wanted = self.dataset.positive_mask if action_mask is None else action_mask
        found = []
        for view, whole in self._with_histories():
            wanted_K = (view.actions_K & wanted) != 0
            fresh_K = view.item_row_K[wanted_K & ~np.isin(view.item_row_K, whole.item_row_N[: view.start])]
            found.append(int(fresh_K[0]) if len(fresh_K) else UNKNOWN_ROW)
        return np.array(found, np.int64)

    def later_targets(self, horizon_s: int) -> list[Int64s]:
        """Return items of each user's positive events in the `horizon_s` seconds from the feedview on.

        They are distinct rows that are not in the history, [F] of any length.
        """
        found = []
        for view, whole in self._with_histories():
            before, later = whole[: view.start], whole[view.start :]
            wanted_N = (later.actions_N & self.dataset.positive_mask) != 0
            wanted_N &= later.timestamp_N <= view.timestamp + horizon_s
            found.append(np.setdiff1d(later.item_row_N[wanted_N], before.item_row_N))
        return found

    def _with_histories(self) -> Iterator[tuple[Feedview, History]]:
        """Yield each feedview with its user's whole history."""
        for feedview, user in zip(self.feedview_F.tolist(), self.user_F.tolist(), strict=True):
            yield self.dataset.feedviews.view(feedview), self.dataset.history(user)

    def probabilities(self, recommender: Ranker, items: Sequence[Int64s] | None = None) -> Float32s:
        """Return the predicted probabilities of what was shown, or of other items of each request, [S, A]."""
        requests, items = self.requests(), items or self.items()
        parts = []
        for begin in range(0, len(requests), CHUNK_FEEDVIEWS):
            chunk = slice(begin, begin + CHUNK_FEEDVIEWS)
            parts += recommender.action_probabilities(requests[chunk], items[chunk])
        return np.concatenate([part.numpy() for part in parts])

    def query_embeddings(self, recommender: QueryEmbedder, outcomes: Sequence[int], steps: int) -> Float32s:
        """Return query embeddings [F, S, X, O, E]; those of the first outcome are fed back."""
        requests = self.requests()
        parts = [
            recommender.query_embeddings(
                requests[begin : begin + CHUNK_FEEDVIEWS], outcomes, steps, outcomes[0]
            )
            for begin in range(0, len(requests), CHUNK_FEEDVIEWS)
        ]
        return np.concatenate([part.numpy() for part in parts])

    def ranks(self, recommender: Retriever) -> Int64s:
        """Return each target's rank in the catalogue without the history, 0 where there is none, [F]."""
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
