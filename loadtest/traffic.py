"""Who asks next, and with which history: the same for the same seed.

Shapes: U users, N events.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from loadtest.histories import Int64s, UserHistory

MOST_APPENDED = 8
"""Events that a returning user has had since the last visit: 1 to this, uniformly."""

ASKED_AFTER_S = 60
"""Seconds from the last event to the request."""

LAP_GAP_S = 3_600
"""Seconds between a user's last recorded event and its first one, replayed again behind it."""

LARGEST_SHIFT_S = 1_000_000

TOLERANCE = 1e-6


class Kind(StrEnum):
    """How a caller is known to the server."""

    NEW = "new"
    """An id that nobody had before, and no history: the server starts cold."""
    ANONYMOUS = "anonymous"
    """A history in the request, and an id that never comes again."""
    RETURNING = "returning"
    """The history of the last visit and a few more events, which the server can continue."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficMix:
    """Shares of the kinds of callers, and how unevenly users return."""

    new: float = 0.1
    """Share of requests of unknown users. More of them make a server look faster: they have no history."""
    anonymous: float = 0.2
    """Share of requests that no earlier one helps."""
    returning: float = 0.7
    """Share of requests whose history continues an earlier one."""
    zipf: float = 1.0
    """The user of rank r returns with a share of 1 / r^zipf. Larger ones keep fewer users warm; 0 is even."""

    def __post_init__(self) -> None:
        for kind, share in zip(Kind, self.shares, strict=True):
            if not 0 <= share <= 1:
                raise ValueError(f"share of {kind} is {share}; allowed: 0 to 1")
        if abs(sum(self.shares) - 1) > TOLERANCE:
            raise ValueError(f"shares add up to {sum(self.shares):g}; allowed: 1")
        if not 0 <= self.zipf <= 10:
            raise ValueError(f"zipf is {self.zipf}; allowed: 0 to 10")

    @property
    def shares(self) -> tuple[float, float, float]:
        """In the order of `Kind`."""
        return self.new, self.anonymous, self.returning


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryLimit:
    """What a caller keeps of a history, so that requests do not grow for ever."""

    keep: int = 1024
    """Events that are sent at most. Fewer than the model's window and a block give it less than it reads."""
    drop: int = 256
    """Events that are dropped at once. In multiples of the model's `window_block`, the server's own window
    starts at the same event as before, and its prefix stays valid."""

    def __post_init__(self) -> None:
        if not 1 <= self.drop <= self.keep:
            raise ValueError(f"drop is {self.drop}; allowed: 1 to {self.keep}")

    def start(self, length: int) -> int:
        """First event sent of a history of `length`."""
        return -(-max(length - self.keep, 0) // self.drop) * self.drop


@dataclass(frozen=True, slots=True)
class Visit:
    """One request."""

    kind: Kind
    user_id: str
    history: UserHistory | None
    """None leaves the history to the server."""

    @property
    def request_time(self) -> int | None:
        """Unix seconds; None where the server's clock is to be used."""
        return None if self.history is None else int(self.history.timestamp_N[-1]) + ASKED_AFTER_S


class Traffic:
    """An endless sequence of visits, drawn from recorded histories.

    Several streams share the users among them, so that each user's visits stay in order, and are
    deterministic whatever their timing. A user may come again before the last visit is answered.
    """

    def __init__(
        self,
        users: Sequence[UserHistory],
        mix: TrafficMix,
        *,
        seed: int,
        limit: HistoryLimit | None = None,
        stream: int = 0,
        streams: int = 1,
    ) -> None:
        """`stream` of `streams`, counted from 0.

        Raises `ValueError` when there are fewer users than streams.
        """
        if len(users) < streams:
            raise ValueError(
                f"traffic has {len(users)} users; allowed: at least one for each of {streams} workers"
            )
        ranked = np.random.default_rng((seed, 0)).permutation(len(users))
        rank_U = np.arange(stream, len(users), streams)
        self._users = [users[index] for index in ranked[rank_U]]
        self._limit = limit or HistoryLimit()
        self._name = f"{seed}-{stream}"
        self._draw = np.random.default_rng((seed, 1, stream))
        # Another seed gives other timestamps, so that its visits continue no prefix of an earlier run.
        self._shift_s = int(np.random.default_rng((seed, 2)).integers(LARGEST_SHIFT_S))
        share_U = (rank_U + 1.0) ** -mix.zipf
        self._until_U: NDArray[np.float64] = share_U.cumsum() / share_U.sum()
        self._until_kind = np.cumsum(mix.shares)
        self._length: dict[int, int] = {}
        self._strangers = 0

    def next(self) -> Visit:
        """The next visit."""
        kind = list(Kind)[min(int(np.searchsorted(self._until_kind, self._draw.random(), "right")), 2)]
        if kind is Kind.RETURNING:
            return self._returning()
        self._strangers += 1
        user_id = f"{kind}-{self._name}-{self._strangers}"
        return Visit(kind, user_id, None if kind is Kind.NEW else self._anonymous(user_id))

    def _returning(self) -> Visit:
        index = min(int(np.searchsorted(self._until_U, self._draw.random(), "right")), len(self._users) - 1)
        user = self._users[index]
        appended = int(self._draw.integers(1, MOST_APPENDED + 1))
        known = self._length.get(index)
        length = self._length[index] = (len(user) + 1) // 2 if known is None else known + appended
        return Visit(Kind.RETURNING, user.user_id, self._events(user, self._limit.start(length), length))

    def _anonymous(self, user_id: str) -> UserHistory:
        user = self._users[int(self._draw.integers(len(self._users)))]
        length = int(self._draw.integers(1, min(len(user), self._limit.keep) + 1))
        start = int(self._draw.integers(len(user) - length + 1))
        events = self._events(user, start, start + length)
        return UserHistory(user_id, events.item_id_N, events.actions_N, events.timestamp_N, events.surface_N)

    def _events(self, user: UserHistory, start: int, stop: int) -> UserHistory:
        """Events `start` to `stop` of a user whose recorded events repeat for ever, later each time."""
        lap_N, place_N = np.divmod(np.arange(start, stop), len(user))
        lap_s = int(user.timestamp_N[-1] - user.timestamp_N[0]) + LAP_GAP_S
        timestamp_N: Int64s = user.timestamp_N[place_N] + lap_N * lap_s + self._shift_s
        return UserHistory(
            user.user_id,
            user.item_id_N[place_N],
            user.actions_N[place_N],
            timestamp_N,
            user.surface_N[place_N],
        )
