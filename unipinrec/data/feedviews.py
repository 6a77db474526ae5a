"""Feedviews: how events close in time become one, and how all of them lie in memory.

Shapes: U users, F feedviews, S shown items (rows of feedviews).
"""

from dataclasses import dataclass

import numpy as np
import polars as pl

from unipinrec.arrays import Int64s

LONGEST_GAP = 60
"""Seconds between two events of one feedview, at most."""
LARGEST_FEEDVIEW = 32
"""Items; a longer run is split. It bounds the candidates of one training example."""


def group_in_time(events: pl.DataFrame) -> pl.DataFrame:
    """Return the events (ordered by user and time) with a `feedview_id` from their timestamps.

    Consecutive events of a user with gaps of at most `LONGEST_GAP` seconds form a run; every
    `LARGEST_FEEDVIEW` events of a run form a feedview.
    """
    gap = pl.col("timestamp").diff().over("user_id")
    run = (gap.is_null() | (gap > LONGEST_GAP)).cum_sum()
    index = pl.int_range(pl.len()).over("run")
    feedview_id = (index % LARGEST_FEEDVIEW == 0).cum_sum().cast(pl.Int64) - 1
    return events.with_columns(run=run).with_columns(feedview_id=feedview_id).drop("run")


@dataclass(frozen=True, slots=True)
class Feedview:
    """One slate: its shown items in stored order, with what the user did to each (0 = nothing)."""

    timestamp: int
    """Unix seconds of the first row."""
    surface: int
    """Surface of the first row."""
    start: int
    """Number of events of the user's history strictly before it, in stored order."""
    item_row_K: Int64s
    actions_K: Int64s


@dataclass(frozen=True, slots=True)
class Feedviews:
    """All feedviews by user, and by time within a user, in two levels of offsets."""

    offset_U1: Int64s
    """Feedviews of user u are `offset_U1[u]` to `offset_U1[u + 1]`."""
    timestamp_F: Int64s
    surface_F: Int64s
    start_F: Int64s
    shown_offset_F1: Int64s
    """Shown items of feedview f are `shown_offset_F1[f]` to `shown_offset_F1[f + 1]`."""
    item_row_S: Int64s
    actions_S: Int64s
    through_S: Int64s
    """Number of events of the user's history up to this row, itself included when it was acted on."""

    def __len__(self) -> int:
        return len(self.timestamp_F)

    def view(self, feedview: int, shown: int | None = None) -> Feedview:
        """Return a feedview, or its first `shown` items. The arrays are views."""
        begin, end = self.shown_offset_F1[feedview], self.shown_offset_F1[feedview + 1]
        kept = slice(begin, end if shown is None else begin + shown)
        return Feedview(
            timestamp=int(self.timestamp_F[feedview]),
            surface=int(self.surface_F[feedview]),
            start=int(self.start_F[feedview]),
            item_row_K=self.item_row_S[kept],
            actions_K=self.actions_S[kept],
        )


def offsets(group: Int64s, groups: int) -> Int64s:
    """Return where each of `groups` begins in an array sorted by `group`, and the end: [groups + 1]."""
    return np.concatenate([[0], np.cumsum(np.bincount(group, minlength=groups))]).astype(np.int64)


def group_of(offset: Int64s) -> Int64s:
    """Return the group of every element, from where the groups begin and the end."""
    return np.repeat(np.arange(len(offset) - 1), np.diff(offset))
