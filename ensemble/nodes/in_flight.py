"""Which requests are under way in the graph: opened by the edge, closed by whichever node ends them.

The edge alone opens, and knows what it needs of each request. All that the other nodes have to say is that
one has ended. They write it into a table in shared memory, and nobody waits for anybody.
"""

import mmap
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

FOLDER = "in-flight"
PLACES = 1024
"""Requests that may be under way at once."""
CLOSED = np.dtype([("deadline_us", "<i8"), ("at_us", "<i8"), ("ending", "<i8")])
OVERTAKEN_US = 500_000
"""A request that is open although one that was admitted so much later has ended: Triton ended it between two
nodes, as it does when its caller is gone."""


def now_us() -> int:
    """Return the microseconds of a clock that all processes of this machine share and that never jumps."""
    return time.monotonic_ns() // 1000


class Ending(IntEnum):
    """How a request ended, and so what its time says of others."""

    ANSWERED = 0
    EXPIRED = 1
    """An answer would have taken longer still."""
    FAILED = 2
    """Nothing."""


class Ticket(NamedTuple):
    """What goes with a request through the graph."""

    deadline_us: int
    """Of `now_us`: from then on nobody waits for an answer."""
    table: int = 0
    """Process id of the edge that opened it; 0 where nobody counts it."""
    place: int = 0

    def to_array(self, users: int) -> NDArray[np.int64]:
        """Return what ADMISSION holds, sealed, for each of so many users, INT64 [B, 3]."""
        return np.tile(np.array(self, np.int64), (users, 1))

    @classmethod
    def of_array(cls, array: NDArray[Any]) -> Self:
        """Return what `to_array` was made of."""
        return cls(*array[0].tolist())


@dataclass(frozen=True, slots=True)
class Ended:
    """A request that has ended."""

    ending: Ending
    took_us: int
    users: int
    ahead: int
    """Users of the requests that were under way when it was admitted."""


class InFlight:
    """The edge's side of the table."""

    def __init__(self, runtime_dir: Path) -> None:
        folder = runtime_dir / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        self._table = os.getpid()
        path = folder / str(self._table)
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
        with os.fdopen(descriptor, "r+b") as file:
            file.truncate(PLACES * CLOSED.itemsize)
            self._closed_P = np.frombuffer(mmap.mmap(file.fileno(), PLACES * CLOSED.itemsize), CLOSED)
        self._deadline_P = np.zeros(PLACES, np.int64)
        self._opened_P = np.zeros(PLACES, np.int64)
        self._users_P = np.zeros(PLACES, np.int64)
        self._ahead_P = np.zeros(PLACES, np.int64)
        self._free = list(range(PLACES))
        self._latest_us = 0
        self.users = 0
        """Users of all requests under way."""

    @property
    def full(self) -> bool:
        """Whether no further request can be counted."""
        return not self._free

    def open(self, users: int, deadline_us: int, opened_us: int) -> Ticket:
        """Count a request of so many users. Raises `IndexError` where it is full."""
        place = self._free.pop()
        self._deadline_P[place] = deadline_us
        self._opened_P[place] = opened_us
        self._users_P[place] = users
        self._ahead_P[place] = self.users
        self.users += users
        return Ticket(deadline_us, self._table, place)

    def settle(self, at_us: int) -> Iterator[Ended]:
        """Count no longer what has ended, and yield what a node closed. What nobody closed ends with its
        deadline, or when it has been overtaken."""
        open_P = self._users_P > 0
        closed_P = open_P & (self._closed_P["deadline_us"] == self._deadline_P)
        if closed_P.any():
            self._latest_us = max(self._latest_us, int(self._opened_P[closed_P].max()))
        lost_P = open_P & ~closed_P
        lost_P &= (self._deadline_P < at_us) | (self._opened_P < self._latest_us - OVERTAKEN_US)
        for place in np.flatnonzero(closed_P | lost_P).tolist():
            users = int(self._users_P[place])
            if closed_P[place]:
                _, ended_us, ending = self._closed_P[place].tolist()
                took_us = ended_us - int(self._opened_P[place])
                yield Ended(Ending(ending), took_us, users, int(self._ahead_P[place]))
            self.users -= users
            self._users_P[place] = 0
            self._free.append(place)


class InFlightTables:
    """The other nodes' side: the tables of all edges, opened when a first request of theirs comes."""

    def __init__(self, runtime_dir: Path) -> None:
        self._folder = runtime_dir / FOLDER
        self._closed: dict[int, NDArray[Any]] = {}

    def close(self, ticket: Ticket, ending: Ending) -> None:
        """Say that a request has ended, unless nobody counts it or its edge is gone."""
        if ticket.table <= 0 or not 0 <= ticket.place < PLACES:
            return
        closed_P = self._closed.get(ticket.table)
        if closed_P is None:
            with suppress(OSError, ValueError):
                closed_P = self._closed[ticket.table] = self._open(ticket.table)
        if closed_P is not None:
            closed_P["at_us"][ticket.place] = now_us()
            closed_P["ending"][ticket.place] = ending
            # Last, because it is what the edge looks at.
            closed_P["deadline_us"][ticket.place] = ticket.deadline_us

    def _open(self, table: int) -> NDArray[Any]:
        with (self._folder / str(table)).open("r+b") as file:
            return np.frombuffer(mmap.mmap(file.fileno(), PLACES * CLOSED.itemsize), CLOSED)
