"""Who asks next, and with which history: the same for the same seed.

Shapes: U users, N events.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

import gevent
import numpy as np

from loadtest.histories import DrawnUsers, UserHistory

MOST_APPENDED = 8
"""Events that a returning user has had since the last visit: 1 to this, uniformly."""

LAP_GAP_S = 3_600
"""Seconds between a user's last recorded event and its first one, replayed again behind it."""

LARGEST_SHIFT_S = 1_000_000

TOLERANCE = 1e-6

WAIT_S = 0.001
"""Between two looks whether a user has come back."""


class Kind(StrEnum):
    """How a caller is known to the server."""

    NEW = "new"
    """An id that nobody had before, and no history: the server starts cold."""
    ANONYMOUS = "anonymous"
    """Events that nobody has sent before, and an id that never comes again."""
    RETURNING = "returning"
    """The history of the last visit and a few more events, which the server can continue."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficMix:
    """Shares of the kinds of callers, and how they come."""

    new: float = 0.1
    """Share of requests of unknown users. More of them make a server look faster: they have no history."""
    anonymous: float = 0.2
    """Share of requests that no earlier one helps."""
    returning: float = 0.7
    """Share of requests whose history continues an earlier one."""
    zipf: float = 1.0
    """The user of rank r returns with a share of 1 / r^zipf. Larger ones keep fewer users warm; 0 is even."""
    anonymous_events: int | None = None
    """Events of an anonymous caller, for users who have as many; None draws a part of any length."""
    overlapping: bool = True
    """Whether a user may return before the last visit is answered. Visits are the same whatever their timing
    only if so; if not, a user whose visit is under way is drawn anew."""

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
        """The shares in the order of `Kind`."""
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
        """Return the first event sent of a history of `length`."""
        return -(-max(length - self.keep, 0) // self.drop) * self.drop


@dataclass(frozen=True, slots=True)
class Visit:
    """One request."""

    kind: Kind
    user_id: str
    history: UserHistory | None
    """None leaves the history to the server."""
    rank: int | None = None
    """Place of a returning user among those of the stream, the most popular first."""


class StoredTraffic:
    """Visits in turns of users whose histories the server has."""

    def __init__(self, user_ids: Sequence[str]) -> None:
        self._upcoming = deque(user_ids)

    @property
    def user_ids(self) -> tuple[str, ...]:
        """Return the users from the next one on."""
        return tuple(self._upcoming)

    def first_pass(self, users: int) -> Iterator[Visit]:
        """Yield so many visits."""
        return (self.next() for _ in range(users))

    def next(self) -> Visit:
        """Return the next visit."""
        user_id = self._upcoming[0]
        self.skip(1)
        return Visit(Kind.RETURNING, user_id, None)

    def skip(self, visits: int) -> None:
        """Go on behind so many visits, which others have sent."""
        self._upcoming.rotate(-visits)

    def done(self, visit: Visit) -> None:
        """Let the user of a visit return, as any user may at any time."""


class Traffic:
    """An endless sequence of visits, made of users' histories.

    Several streams share the users among them, so that each user's visits stay in order.
    """

    def __init__(
        self,
        users: Sequence[UserHistory] | DrawnUsers,
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
        rank_U = np.arange(stream, len(users), streams)
        self._users = users
        self._number_U = np.random.default_rng((seed, 0)).permutation(len(users))[rank_U]
        self._mix = mix
        self._limit = limit or HistoryLimit()
        self._name = f"{seed}-{stream}"
        self._draw = np.random.default_rng((seed, 1, stream))
        # Another seed gives other timestamps, so that its visits continue no prefix of an earlier run.
        self._shift_s = int(np.random.default_rng((seed, 2)).integers(LARGEST_SHIFT_S))
        share_U = (rank_U + 1.0) ** -mix.zipf
        self._until_U = share_U.cumsum() / share_U.sum()
        self._until_kind = np.cumsum(mix.shares)
        self._length: dict[int, int] = {}
        self._under_way: set[int] = set()
        self._strangers = 0

    def first_pass(self, users: int) -> Iterator[Visit]:
        """Yield the first visits of the most popular users, the least popular of them first, so that a cache
        for so many would leave out those least recently used."""
        for rank in reversed(range(min(users, len(self._number_U)))):
            yield self._visit_of(rank)

    def next(self) -> Visit:
        """Return the next visit, once there is a user for it."""
        kind = list(Kind)[min(int(np.searchsorted(self._until_kind, self._draw.random(), "right")), 2)]
        if kind is Kind.RETURNING:
            return self._visit_of(self._next_rank())
        self._strangers += 1
        user_id = f"{kind}-{self._name}-{self._strangers}"
        return Visit(kind, user_id, None if kind is Kind.NEW else self._anonymous(user_id))

    def done(self, visit: Visit) -> None:
        """Let the user of an answered or failed visit return."""
        if visit.rank is not None:
            self._under_way.discard(visit.rank)

    def _next_rank(self) -> int:
        while True:
            drawn = int(np.searchsorted(self._until_U, self._draw.random(), "right"))
            rank = min(drawn, len(self._until_U) - 1)
            if self._mix.overlapping:
                return rank
            if rank not in self._under_way:
                self._under_way.add(rank)
                return rank
            if len(self._under_way) == len(self._until_U):
                gevent.sleep(WAIT_S)

    def _visit_of(self, rank: int) -> Visit:
        user = self._users[int(self._number_U[rank])]
        known = self._length.get(rank)
        appended = int(self._draw.integers(1, MOST_APPENDED + 1))
        length = self._length[rank] = (len(user) + 1) // 2 if known is None else known + appended
        events = self._events(user, user.user_id, self._limit.start(length), length)
        return Visit(Kind.RETURNING, user.user_id, events, rank)

    def _anonymous(self, user_id: str) -> UserHistory:
        user = self._users[int(self._number_U[self._draw.integers(len(self._number_U))])]
        most = min(len(user), self._limit.keep)
        length = int(self._draw.integers(1, most + 1))
        if self._mix.anonymous_events is not None:
            length = min(self._mix.anonymous_events, most)
        start = int(self._draw.integers(len(user) - length + 1))
        # Nobody else has had the same events at the same times.
        return self._events(user, user_id, start, start + length, later_s=self._strangers)

    def _events(
        self, user: UserHistory, user_id: str, start: int, stop: int, later_s: int = 0
    ) -> UserHistory:
        """Events `start` to `stop` of a user whose recorded events repeat for ever, later each time."""
        lap_N, place_N = np.divmod(np.arange(start, stop), len(user))
        lap_s = int(user.timestamp_N[-1] - user.timestamp_N[0]) + LAP_GAP_S
        return UserHistory(
            user_id,
            user.item_id_N[place_N],
            user.actions_N[place_N],
            user.timestamp_N[place_N] + lap_N * lap_s + self._shift_s + later_s,
            user.surface_N[place_N],
        )


AnyTraffic = Traffic | StoredTraffic
