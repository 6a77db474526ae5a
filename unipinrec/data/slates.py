"""What feedviews showed, each item once, with all that was done to it.

Shapes: F feedviews, S shown items, V items, A actions, R some feedviews, C what these showed.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np

from unipinrec.arrays import Bools, Int64s
from unipinrec.data.feedviews import group_of, offsets
from unipinrec.data.interactions import InteractionDataset


@dataclass(frozen=True, slots=True)
class Slates:
    """Distinct items of feedviews, with all that was done to each."""

    item_row_S: Int64s
    actions_S: Int64s
    offset_F1: Int64s

    @classmethod
    def of(cls, dataset: InteractionDataset, kept_F: Int64s) -> Self:
        """Return the first `kept_F` shown items of each feedview."""
        views, items = dataset.feedviews, len(dataset.item_ids_V)
        feedview_S = group_of(views.shown_offset_F1)
        kept_S = np.arange(len(feedview_S)) - views.shown_offset_F1[feedview_S] < kept_F[feedview_S]
        key_S = (feedview_S * items + views.item_row_S)[kept_S]
        order_S = np.argsort(key_S, kind="stable")
        first_S = np.flatnonzero(np.diff(key_S[order_S], prepend=-1))
        pair_S, actions_S = key_S[order_S][first_S], views.actions_S[kept_S][order_S]
        # `reduceat` takes no empty array.
        joined_S = np.bitwise_or.reduceat(actions_S, first_S) if len(first_S) else actions_S
        return cls(pair_S % items, joined_S, offsets(pair_S // items, len(views)))

    def taken(self, feedview_R: Int64s) -> Self:
        """Return some feedviews, in that order."""
        begin_R, length_R = self.offset_F1[feedview_R], np.diff(self.offset_F1)[feedview_R]
        offset_R1 = np.concatenate([[0], np.cumsum(length_R)]).astype(np.int64)
        index_C = np.arange(offset_R1[-1]) + np.repeat(begin_R - offset_R1[:-1], length_R)
        return type(self)(self.item_row_S[index_C], self.actions_S[index_C], offset_R1)

    def labels(self, actions: int) -> Bools:
        """Return which shown items got which action, [S, A]."""
        label_SA: Bools = self.actions_S[:, None] >> np.arange(actions) & 1 == 1
        return label_SA
