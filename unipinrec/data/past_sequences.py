"""What users of a dataset had done and been shown before any of its feedviews.

Shapes: F feedviews, R some of them, E events of all users.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np

from unipinrec.arrays import Int64s
from unipinrec.data.feedviews import group_of
from unipinrec.data.history import History
from unipinrec.data.impressions_log import ImpressionLog
from unipinrec.data.interactions import InteractionDataset
from unipinrec.data.sequences import Limits, PackedSequences, RequestSequences


class PastSequences:
    """Sequences of a dataset's users, packed."""

    def __init__(self, dataset: InteractionDataset, limits: Limits) -> None:
        log = ImpressionLog.of(dataset)
        user_F = group_of(dataset.feedviews.offset_U1)
        self.limits = limits
        self._views = dataset.feedviews
        self._events = _Rows.acted_on(dataset)
        self._impressions = _Rows(log.rows, log.offset_U1[user_F], log.start_F)

    def before(self, feedview_R: Int64s) -> RequestSequences:
        """Return what was known of the users of these feedviews when each began."""
        return RequestSequences(
            events=self._events.latest(feedview_R, self.limits.max_events),
            impressions=self._impressions.latest(feedview_R, self.limits.max_impressions),
            request_time_R=self._views.timestamp_F[feedview_R],
            request_surface_R=self._views.surface_F[feedview_R],
        )


@dataclass(frozen=True, slots=True)
class _Rows:
    """_Rows of all users one after another, and how many of them each feedview's user has before it."""

    rows: History
    begin_F: Int64s
    count_F: Int64s

    @classmethod
    def acted_on(cls, dataset: InteractionDataset) -> Self:
        """Return the events, without impressions that histories hold."""
        acted_E = dataset.actions_E != 0
        before_E1 = np.concatenate([[0], np.cumsum(acted_E)]).astype(np.int64)
        first_F = dataset.offset_U1[group_of(dataset.feedviews.offset_U1)]
        begin_F = before_E1[first_F]
        rows = History(
            item_row_N=dataset.item_row_E[acted_E],
            actions_N=dataset.actions_E[acted_E],
            timestamp_N=dataset.timestamp_E[acted_E],
            surface_N=dataset.surface_E[acted_E],
        )
        return cls(rows, begin_F, before_E1[first_F + dataset.feedviews.start_F] - begin_F)

    def latest(self, feedview_R: Int64s, most: int) -> PackedSequences:
        """Return at most so many rows before each feedview."""
        end_R = self.begin_F[feedview_R] + self.count_F[feedview_R]
        return PackedSequences.taken(self.rows, end_R - np.minimum(self.count_F[feedview_R], most), end_R)
