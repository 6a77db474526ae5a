"""Requests that have little in common: any length of history, any number of results, users old and new.

Shapes: U users.
"""

import zlib
from collections.abc import Iterator

import numpy as np

from benchmarks.caller import RequestMaker, Tensors
from benchmarks.workload import EventSpace, GrowingHistory, ReturningTraffic, Visit
from ensemble.arrays import Int64s


class RandomTraffic(ReturningTraffic):
    """Users drawn at random, who come again with a few more events unless a new user takes their place."""

    def __init__(self, space: EventSpace, seed: int, users: int, new_share: float = 0.3) -> None:
        """`users` are known at any time; a share of the visits is of one who is new."""
        super().__init__(space, seed, "random")
        self._draw = np.random.default_rng((seed, users))
        self._idle_users = list(range(users))
        self._new_share = new_share
        self._users = users

    def first_pass(self) -> Iterator[Visit]:
        """Nobody: what is cached comes of the visits themselves."""
        return iter(())

    def _next_user(self) -> int | None:
        if not self._idle_users:
            return None
        place = int(self._draw.integers(len(self._idle_users)))
        self._idle_users[place], self._idle_users[-1] = self._idle_users[-1], self._idle_users[place]
        user = self._idle_users.pop()
        if self._draw.random() < self._new_share:
            self._histories.pop(user, None)
            user, self._users = self._users, self._users + 1
        return user

    def _set_idle(self, user: int) -> None:
        self._idle_users.append(user)

    def _events_of(self, user: int) -> GrowingHistory:
        if user not in self._histories:
            # More short histories than long ones, as among users.
            length = int(self._space.max_history * self._draw.random() ** 2)
            self._histories[user] = GrowingHistory(self._space, (self._seed, user), max(1, length))
        return self._histories[user]


class RandomRequestMaker(RequestMaker):
    """Asks for another number of results with every visit."""

    def __init__(self, item_id_V: Int64s, most: int) -> None:
        """`most` results."""
        super().__init__(item_id_V, most)
        self._most = most

    def __call__(self, *visits: Visit) -> Tensors:
        """See `RequestMaker`."""
        wanted = [[self.results_of(visit)] for visit in visits]
        return super().__call__(*visits) | {"NUM_RESULTS": np.array(wanted, np.int64)}

    def results_of(self, visit: Visit) -> int:
        """How many results a visit asks for: the same for the same visit, fewer more often than more."""
        text = f"{visit.user_id} {len(visit.history)} {visit.request_time}"
        share = zlib.crc32(text.encode()) / 2**32
        return 1 + int(self._most * share**3)
