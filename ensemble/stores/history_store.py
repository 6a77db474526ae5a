"""What every store of histories does, and the events that it takes.

A user's events are an array [N] of dtype `EVENT`, oldest first.
"""

from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from unipinrec.data.limits import LATEST_TIMESTAMP, LONGEST_USER_ID, MOST_ACTIONS

EVENT = np.dtype([("item_id", "<i8"), ("actions", "<i8"), ("timestamp", "<i8"), ("surface", "<i4")])
"""One stored event. Item ids are external, so that a store outlives a bundle's row numbers."""

Events = NDArray[np.void]

LARGEST = {
    "item_id": 2**63 - 1,
    "actions": 2**MOST_ACTIONS - 1,
    "timestamp": LATEST_TIMESTAMP,
    "surface": 2**31 - 1,
}


class StoreError(Exception):
    """A store that cannot be opened or written; the message is one line."""


class InvalidEventsError(ValueError):
    """Events that no store takes; the message names the value and what is allowed."""


class Written(NamedTuple):
    """How much was written."""

    histories: int
    """Users with events; a user who was given twice counts twice."""
    events: int


class HistoryStore(Protocol):
    """Histories by user id. Nodes read them while other processes append.

    Writes raise `InvalidEventsError` for events that are not allowed and `StoreError` where the store fails;
    nothing of a write that raises is kept. A write that has returned is on disk.
    """

    def read(self, user_id: bytes) -> Events:
        """Return all stored events of a user, those of every earlier append among them; none for an unknown
        user."""

    def first_users(self, count: int) -> list[bytes]:
        """Return the ids of at most `count` users with a stored history, in the order of their bytes."""

    def append(self, user_id: bytes, events: Events) -> None:
        """Add events, whose times ascend, to those of a user.

        Times may lie before stored ones: the history stays in order of time, and of equal times the stored
        event comes first. An event that is appended twice is stored twice.
        """

    def append_all(self, histories: Collection[tuple[bytes, Events]]) -> Written:
        """Append to many users in one step, of which all is kept or nothing."""

    def replace_all(self, histories: Callable[[], Iterable[tuple[bytes, Events]]]) -> Written:
        """Store these histories in place of all that there are, in one step. `histories` may be called again,
        where the store turns out too small half-way."""

    def close(self) -> None:
        """Release the store."""


def check_events(user_id: bytes, events: Events) -> Events:
    """Return the events in dtype `EVENT`; integers of any width will do. Raises `InvalidEventsError` if the
    user id is empty or too long, a value is out of range, or times do not ascend."""
    if not 0 < len(user_id) <= LONGEST_USER_ID:
        raise InvalidEventsError(
            f"user_id {user_id.decode(errors='replace')!r} has {len(user_id)} bytes; "
            f"allowed: 1 to {LONGEST_USER_ID}"
        )
    for name, largest in LARGEST.items():
        wrong_N = (events[name] < 0) | (events[name] > largest)
        if wrong_N.any():
            place = int(wrong_N.argmax())
            raise InvalidEventsError(
                f"{name} is {events[name][place]} at event {place}; allowed: 0 to {largest}"
            )
    time_N = events["timestamp"]
    falls_N = time_N[1:] < time_N[:-1]
    if falls_N.any():
        place = int(falls_N.argmax())
        earlier, later = time_N[place : place + 2]
        raise InvalidEventsError(
            f"timestamp is {later} at event {place + 1}; allowed: ascending, at least {earlier}"
        )
    checked = np.empty(len(events), EVENT)
    for name in LARGEST:
        checked[name] = events[name]
    return checked


def merge(stored: Events, appended: Events) -> Events:
    """Return both in order of time; of equal times the stored event comes first."""
    events = np.concatenate([stored, appended])
    return events[np.argsort(events["timestamp"], kind="stable")]
