"""Who asks next, and with which history: the same for the same seed.

Shapes: N events, U users.
"""

import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from unipinrec.bundle import Manifest
from unipinrec.data.history import History

FIRST_TIME = 1_700_000_000
LONGEST_GAP_S = 5_000
MOST_APPENDED = 8
"""Events that a returning user has had since the last visit: 1 to this, uniformly."""

ASKED_AFTER_S = 60
"""Seconds from the last event to the request."""

PATIENCE_S = 60.0
"""Seconds until nobody comes back any more, which a load generator must not wait out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EventSpace:
    """What events may hold, and how long the histories are that the model reads."""

    items: int
    actions: int
    surfaces: int
    max_history: int
    window_block: int

    @classmethod
    def of(cls, manifest: Manifest) -> "EventSpace":
        """That of a bundle."""
        model = manifest.model
        return cls(
            items=model.num_items,
            actions=model.num_actions,
            surfaces=model.num_surfaces,
            max_history=model.max_history,
            window_block=model.window_block,
        )


@dataclass(frozen=True, slots=True)
class Visit:
    """One request of one user."""

    user: int
    user_id: str
    history: History
    """As it is sent, in item rows."""
    request_time: int


class Traffic(Protocol):
    """Hands out visits, also to several threads. Whoever takes one gives it back when it is answered."""

    def take(self) -> Visit:
        """The next visit of a user who has none under way; waits until there is such a user."""

    def give_back(self, visit: Visit) -> None:
        """Let the user come again."""


class GrowingHistory:
    """One user's events, drawn as they are needed.

    Once a history is longer than the model's window by more than a block, its oldest block is dropped, as a
    caller would that keeps what the model can read. The window's start moves by blocks too, so it stays at
    the same event, and requests do not grow for ever.
    """

    def __init__(self, space: EventSpace, seed: tuple[int, ...], length: int | None = None) -> None:
        """Draws `length` events; left out, as many as leave a window nearly full, from one block less one
        below `max_history` on."""
        self._space = space
        self._draw = np.random.default_rng(seed)
        if length is None:
            least = space.max_history - space.window_block + 1
            length = int(self._draw.integers(least, space.max_history + 1))
        self.history = self._events(length, FIRST_TIME)

    def grow(self) -> None:
        """Append 1 to `MOST_APPENDED` events."""
        new = self._events(int(self._draw.integers(1, MOST_APPENDED + 1)), int(self.history.timestamp_N[-1]))
        grown = History(
            item_row_N=np.concatenate([self.history.item_row_N, new.item_row_N]),
            actions_N=np.concatenate([self.history.actions_N, new.actions_N]),
            timestamp_N=np.concatenate([self.history.timestamp_N, new.timestamp_N]),
            surface_N=np.concatenate([self.history.surface_N, new.surface_N]),
        )
        excess = len(grown) - self._space.max_history - self._space.window_block
        self.history = grown if excess <= 0 else grown[self._space.window_block :]

    def visit(self, user: int, user_id: str) -> Visit:
        """A request with the history as it is now."""
        return Visit(user, user_id, self.history, int(self.history.timestamp_N[-1]) + ASKED_AFTER_S)

    def _events(self, count: int, after: int) -> History:
        draw, space = self._draw, self._space
        return History(
            item_row_N=draw.integers(space.items, size=count),
            actions_N=draw.integers(1, 2**space.actions, size=count),
            timestamp_N=after + draw.integers(1, LONGEST_GAP_S, size=count).cumsum(),
            surface_N=draw.integers(space.surfaces, size=count),
        )


class ColdTraffic:
    """Every visit is the only one of a user, whose history fills the window exactly."""

    def __init__(self, space: EventSpace, seed: int) -> None:
        self._space = space
        self._seed = seed
        self._lock = threading.Lock()
        self._users = 0

    def take(self) -> Visit:
        """See `Traffic`; never waits."""
        with self._lock:
            user = self._users
            self._users += 1
        events = GrowingHistory(self._space, (self._seed, user), self._space.max_history)
        return events.visit(user, f"cold-{self._seed}-{user}")

    def give_back(self, visit: Visit) -> None:
        """See `Traffic`; nobody comes again."""


class ReturningTraffic(ABC):
    """Users who come again, each with the former history and a few more events, and never twice at once."""

    def __init__(self, space: EventSpace, seed: int, name: str) -> None:
        self._space = space
        self._seed = seed
        self._name = name
        self._histories: dict[int, GrowingHistory] = {}
        self._idle = threading.Condition()

    @abstractmethod
    def first_pass(self) -> Iterator[Visit]:
        """Visits that fill the cache before anything is measured. Not to be given back."""

    @abstractmethod
    def _next_user(self) -> int | None:
        """A user who has no visit under way, marked as having one; None when there is no such user."""

    @abstractmethod
    def _set_idle(self, user: int) -> None:
        """The user's visit is over."""

    def take(self) -> Visit:
        """See `Traffic`.

        Raises:
            TimeoutError: every user has a visit under way for a minute: one was not given back.
        """
        with self._idle:
            user = self._next_user()
            while user is None:
                if not self._idle.wait(PATIENCE_S):
                    raise TimeoutError(f"no user of {self._name} traffic came back in {PATIENCE_S:g} s")
                user = self._next_user()
            events = self._events_of(user)
        # The user has no other visit, so nobody else touches these events.
        events.grow()
        return events.visit(user, self._user_id(user))

    def give_back(self, visit: Visit) -> None:
        """See `Traffic`."""
        with self._idle:
            self._set_idle(visit.user)
            self._idle.notify()

    def _events_of(self, user: int) -> GrowingHistory:
        if user not in self._histories:
            self._histories[user] = GrowingHistory(self._space, (self._seed, user))
        return self._histories[user]

    def _user_id(self, user: int) -> str:
        return f"{self._name}-{self._seed}-{user}"


class WarmTraffic(ReturningTraffic):
    """A few users in turn, all of whom the cache has room for."""

    def __init__(self, space: EventSpace, seed: int, users: int) -> None:
        super().__init__(space, seed, "warm")
        self._users = users
        self._waiting = deque(range(users))

    def first_pass(self) -> Iterator[Visit]:
        """Every user once, with the history of before the first visit."""
        for user in range(self._users):
            yield self._events_of(user).visit(user, self._user_id(user))

    def _next_user(self) -> int | None:
        return self._waiting.popleft() if self._waiting else None

    def _set_idle(self, user: int) -> None:
        self._waiting.append(user)


class ZipfTraffic(ReturningTraffic):
    """Many users, the one of rank r with a share of 1 / r^exponent of the visits.

    A user who is drawn while the last visit is under way is drawn anew: nobody reads two pages at once. At
    high concurrency the most popular ones therefore come a little less often than their share.
    """

    def __init__(self, space: EventSpace, seed: int, users: int, cached: int, exponent: float = 1.0) -> None:
        """`cached`: users whom the cache has room for; the first pass brings the most popular ones."""
        super().__init__(space, seed, "zipf")
        share_U = np.arange(1, users + 1, dtype=np.float64) ** -exponent
        self._until_U = share_U.cumsum() / share_U.sum()
        self._cached = min(cached, users)
        self._draw = np.random.default_rng((seed, users))
        self._busy: set[int] = set()

    def first_pass(self) -> Iterator[Visit]:
        """The most popular users, the least popular of them first: what is least recently used goes first."""
        for user in reversed(range(self._cached)):
            yield self._events_of(user).visit(user, self._user_id(user))

    def _next_user(self) -> int | None:
        if len(self._busy) == len(self._until_U):
            return None
        while (user := int(np.searchsorted(self._until_U, self._draw.random(), "right"))) in self._busy:
            pass
        self._busy.add(user)
        return user

    def _set_idle(self, user: int) -> None:
        self._busy.remove(user)
