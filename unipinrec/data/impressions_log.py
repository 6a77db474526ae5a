"""What users were shown and did not act on.

Shapes: U users, F feedviews, E events and S shown items of all of them, I impressions of all users.
"""

from dataclasses import dataclass

import numpy as np

from unipinrec.arrays import Bools, Int64s
from unipinrec.data.feedviews import group_of
from unipinrec.data.history import History
from unipinrec.data.interactions import InteractionDataset


@dataclass(frozen=True, slots=True, kw_only=True)
class ImpressionLog:
    """All impressions that were not acted on, by user, and by time within a user."""

    rows: History
    """[I] of all users one after another. Actions are 0."""
    offset_U1: Int64s
    """Impressions of user u are `offset_U1[u]` to `offset_U1[u + 1]`."""
    start_F: Int64s
    """Impressions of each feedview's user before the feedview, in stored order."""
    user_F: Int64s

    @staticmethod
    def of(dataset: InteractionDataset) -> "ImpressionLog":
        """Return a dataset's impressions.

        They come out of the histories where these hold impressions, else out of the feedviews; then a whole
        slate was shown at the time of its first row. A dataset with sampled impressions has none.
        """
        return _in_histories(dataset) if dataset.info.history_impressions else _in_slates(dataset)

    def history(self, user: int) -> History:
        """Return what the user with that index was shown in vain, oldest first; views of the arrays."""
        return self.rows[int(self.offset_U1[user]) : int(self.offset_U1[user + 1])]

    def before(self, feedview: int) -> History:
        """Return what its user was shown in vain before a feedview, oldest first; views of the arrays."""
        begin = int(self.offset_U1[self.user_F[feedview]])
        return self.rows[begin : begin + int(self.start_F[feedview])]


def _in_histories(dataset: InteractionDataset) -> ImpressionLog:
    views, passed_E = dataset.feedviews, dataset.actions_E == 0
    before_E1 = _counted(passed_E)
    user_F = group_of(views.offset_U1)
    offset_U1 = before_E1[dataset.offset_U1]
    return ImpressionLog(
        rows=History(
            item_row_N=dataset.item_row_E[passed_E],
            actions_N=dataset.actions_E[passed_E],
            timestamp_N=dataset.timestamp_E[passed_E],
            surface_N=dataset.surface_E[passed_E],
        ),
        offset_U1=offset_U1,
        start_F=before_E1[dataset.offset_U1[user_F] + views.start_F] - offset_U1[user_F],
        user_F=user_F,
    )


def _in_slates(dataset: InteractionDataset) -> ImpressionLog:
    views, passed_S = dataset.feedviews, dataset.feedviews.actions_S == 0
    before_F1 = _counted(passed_S)[views.shown_offset_F1]
    feedview_I = group_of(views.shown_offset_F1)[passed_S]
    user_F = group_of(views.offset_U1)
    offset_U1 = before_F1[views.offset_U1]
    return ImpressionLog(
        rows=History(
            item_row_N=views.item_row_S[passed_S],
            actions_N=views.actions_S[passed_S],
            timestamp_N=views.timestamp_F[feedview_I],
            surface_N=views.surface_F[feedview_I],
        ),
        offset_U1=offset_U1,
        start_F=before_F1[:-1] - offset_U1[user_F],
        user_F=user_F,
    )


def _counted(passed: Bools) -> Int64s:
    """How many before each row, and in all."""
    return np.concatenate([[0], np.cumsum(passed)]).astype(np.int64)
