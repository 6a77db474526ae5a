"""Users' sequences before their requests, packed: training, evaluation and serving make them here.

Shapes: R requests, R1 = R + 1 offsets, N rows of a sequence of all requests one after another.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np

from unipinrec.arrays import Int64s
from unipinrec.data.history import History


class Asked(Protocol):
    """One user's rows and the request's context."""

    @property
    def history(self) -> History:
        """Return everything before the request, oldest first; impressions may be among the events."""

    @property
    def impressions(self) -> History | None:
        """Return what was shown and not acted on, oldest first. None: that of the history."""

    @property
    def request_time(self) -> int:
        """Return unix seconds."""

    @property
    def surface(self) -> int:
        """Return the number of the surface."""


class Limits(Protocol):
    """How much of a user a model reads."""

    @property
    def max_events(self) -> int:
        """Return the most events of a request, the latest ones."""

    @property
    def max_impressions(self) -> int:
        """Return the most impressions of a request, the latest ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedSequences:
    """Rows of all requests, oldest first within each."""

    item_row_N: Int64s
    actions_N: Int64s
    surface_N: Int64s
    timestamp_N: Int64s
    offset_R1: Int64s
    """Rows of request r are `offset_R1[r]` to `offset_R1[r + 1]`."""

    @classmethod
    def of(cls, histories: Sequence[History]) -> Self:
        """Return histories one after another."""
        offset_R1 = np.cumsum([0, *(len(history) for history in histories)], dtype=np.int64)

        def joined(name: str) -> Int64s:
            columns = [getattr(history, name) for history in histories]
            column_N: Int64s = np.concatenate([np.empty(0, np.int64), *columns]).astype(np.int64, copy=False)
            return column_N

        return cls(
            item_row_N=joined("item_row_N"),
            actions_N=joined("actions_N"),
            surface_N=joined("surface_N"),
            timestamp_N=joined("timestamp_N"),
            offset_R1=offset_R1,
        )

    @classmethod
    def taken(cls, rows: History, begin_R: Int64s, end_R: Int64s) -> Self:
        """Return rows `begin_R[r]` to `end_R[r]` of one long history for each request."""
        length_R = end_R - begin_R
        offset_R1 = np.concatenate([[0], np.cumsum(length_R)]).astype(np.int64)
        index_N = np.arange(offset_R1[-1]) + np.repeat(begin_R - offset_R1[:-1], length_R)
        return cls(
            item_row_N=rows.item_row_N[index_N],
            actions_N=rows.actions_N[index_N],
            surface_N=rows.surface_N[index_N],
            timestamp_N=rows.timestamp_N[index_N],
            offset_R1=offset_R1,
        )

    @property
    def lengths(self) -> Int64s:
        """Return the number of rows of each request, [R]."""
        return np.diff(self.offset_R1)

    @property
    def request_of_row(self) -> Int64s:
        """Return the request of each row, [N]."""
        return np.repeat(np.arange(len(self.offset_R1) - 1), self.lengths)

    def oldest(self, otherwise: int) -> Int64s:
        """Return the time of each request's first row, or `otherwise` where it has none, [R]."""
        first_R = np.full(len(self.offset_R1) - 1, otherwise, np.int64)
        filled_R = self.lengths > 0
        first_R[filled_R] = self.timestamp_N[self.offset_R1[:-1][filled_R]]
        return first_R


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestSequences:
    """What is known of users when they ask."""

    events: PackedSequences
    """What they acted on."""
    impressions: PackedSequences
    """What they were shown and did not act on; actions are 0."""
    request_time_R: Int64s
    """Unix seconds."""
    request_surface_R: Int64s

    def __len__(self) -> int:
        return len(self.request_time_R)


def sequences_of(requests: Sequence[Asked], limits: Limits) -> RequestSequences:
    """Return the latest events and impressions of each request, as many as a model reads.

    Rows later than the request are left out; those of its second count as before: whoever asks gave them.
    """
    return RequestSequences(
        events=PackedSequences.of([_events(request, limits.max_events) for request in requests]),
        impressions=PackedSequences.of(
            [_impressions(request, limits.max_impressions) for request in requests]
        ),
        request_time_R=np.array([request.request_time for request in requests], np.int64),
        request_surface_R=np.array([request.surface for request in requests], np.int64),
    )


def _events(request: Asked, most: int) -> History:
    known = _known(request.history, request.request_time)
    return _latest(known[known.actions_N != 0], most)


def _impressions(request: Asked, most: int) -> History:
    known = _known(
        request.history if request.impressions is None else request.impressions, request.request_time
    )
    return _latest(known[known.actions_N == 0], most)


def _known(history: History, request_time: int) -> History:
    return history[: int(np.searchsorted(history.timestamp_N, request_time, side="right"))]


def _latest(history: History, most: int) -> History:
    return history[max(len(history) - most, 0) :]
