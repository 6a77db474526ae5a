"""What every store of histories does, and the events that it takes.

A user's events are an array [N] of dtype `EVENT` or `IDENTIFIED`, oldest first.
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from hashlib import blake2b
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ensemble.stores.deletion_notices import Notice
from unipinrec.data.limits import LATEST_TIMESTAMP, LONGEST_EVENT_ID, LONGEST_USER_ID, MOST_ACTIONS

EVENT = np.dtype([("item_id", "<i8"), ("actions", "<i8"), ("timestamp", "<i8"), ("surface", "<i4")])
"""One event as it is read. Item ids are external, so that a store outlives a bundle's row numbers."""

IDENTIFIED = np.dtype(
    [
        ("item_id", "<i8"),
        ("timestamp", "<i8"),
        ("event_id", "<u8"),
        ("actions", "<u4"),
        ("surface", "<i4"),
    ]
)
"""One event as it is appended and stored, with `event_key` of its id, or `NO_EVENT_ID`."""

NO_EVENT_ID = 0

MOST_EVENTS = 32_768
"""Latest events of a user that are kept unless told otherwise: a mebibyte of each."""

USERS_AT_ONCE, EVENTS_AT_ONCE = 500, 500_000
"""Of one step of an import, which other writers wait for."""

Events = NDArray[np.void]

LARGEST = {
    "item_id": 2**63 - 1,
    "actions": 2**MOST_ACTIONS - 1,
    "timestamp": LATEST_TIMESTAMP,
    "surface": 2**31 - 1,
}

EXPORTED_KEY = re.compile(rb"#[0-9a-f]{16}")
"""An event id that an export has written: the key of the id that was given."""


class StoreError(Exception):
    """A store that cannot be opened or written; the message is one line."""


class StoreUnavailableError(StoreError):
    """A store whose server does not answer, for the moment; the same may be asked for again. The message is
    for whoever runs it."""

    told = "the store of histories is away; try again"
    """What a caller gets to know, who need not know where the store is."""


class InvalidEventsError(ValueError):
    """Events that no store takes; the message names the value and what is allowed."""


class Appended(NamedTuple):
    """What became of the events that were appended to a user's. The others are older than the events that
    the store keeps."""

    stored: int
    duplicates: int
    """Events that were there already, or came twice."""


class Written(NamedTuple):
    """How much was written."""

    histories: int
    """Users with events; a user who was given twice counts twice."""
    events: int


class HistoryStore(Protocol):
    """The latest events of users, by user id. Nodes read them while other processes append.

    An event is stored once, the first of several. One that has the id of another of the user is a duplicate;
    without an id, one that has item, time and surface of another without one, unless one of the two is an
    impression (no actions) and the other is none.

    Writes raise `InvalidEventsError` for events that are not allowed and `StoreError` where the store fails;
    nothing of a write that raises is kept; after `StoreUnavailableError` alone it is not known whether it is.
    A write that has returned is on disk.
    """

    @property
    def address(self) -> str:
        """Where the store is, as messages name it; nothing in it is secret."""

    def read(self, user_id: bytes) -> Events:
        """Return the stored events of a user in dtype `EVENT`, those of every earlier append among them;
        none for an unknown user."""

    def read_all(self, user_ids: Sequence[bytes]) -> list[Events]:
        """Return the stored events of several users, as `read` does, in few steps."""

    def first_users(self, count: int) -> list[bytes]:
        """Return the ids of at most `count` users with a stored history, in the order of their bytes."""

    def histories(self) -> Iterator[tuple[bytes, Events]]:
        """Yield the id and the events, in dtype `IDENTIFIED`, of every user. Those of one user are of one
        moment; in LMDB, those of all are as they are at the first."""

    def append(self, user_id: bytes, events: Events) -> Appended:
        """Add events, whose times ascend, to those of a user.

        Times may lie before stored ones: the history stays in order of time, and of equal times the stored
        event comes first.
        """

    def append_all(self, histories: Collection[tuple[bytes, Events]]) -> list[Appended]:
        """Append to many users in one step, of which all is kept or nothing. Returns what became of each."""

    def merge_all(self, histories: Collection[tuple[bytes, Events]]) -> list[Appended]:
        """Append to many users in one step what another system has of them: an event that has item, time and
        surface of a stored one is a duplicate, whatever id either has."""

    def replace_all(self, histories: Callable[[], Iterable[tuple[bytes, Events]]]) -> Written:
        """Store these histories in place of all that there are, in one step. `histories` may be called again,
        where the store turns out too small half-way."""

    def delete(self, user_id: bytes) -> int:
        """Forget a user, and leave a notice of it. Returns how many events there were."""

    def deleted_after(self, number: int) -> list[Notice]:
        """Return the notices of deleted users with numbers above one; 0: all that are left."""

    def close(self) -> None:
        """Release the store."""


def check_events(user_id: bytes, events: Events) -> Events:
    """Return the events in dtype `IDENTIFIED`; integers of any width will do, and events without the column
    `event_id` have no ids. Raises `InvalidEventsError` if the user id is empty or too long, a value is out of
    range, or times do not ascend."""
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
    checked = np.zeros(len(events), IDENTIFIED)
    for name in events.dtype.names or ():
        checked[name] = events[name]
    return checked


def in_steps(histories: Iterable[tuple[bytes, Events]]) -> Iterator[list[tuple[bytes, Events]]]:
    """Yield histories in parts that a store may write in one step while others wait."""
    step: list[tuple[bytes, Events]] = []
    for history in histories:
        step.append(history)
        if len(step) == USERS_AT_ONCE or sum(len(events) for _, events in step) >= EVENTS_AT_ONCE:
            yield step
            step = []
    if step:
        yield step


def as_read(events: Events) -> Events:
    """Return stored events in dtype `EVENT`, in memory of their own."""
    found = np.empty(len(events), EVENT)
    for name in EVENT.names or ():
        found[name] = events[name]
    return found


def event_key(event_id: bytes) -> int:
    """Return what stands for an event id: 64 bits, so that two of a user's ids are as good as never the same,
    and `NO_EVENT_ID` for an empty one. Raises `InvalidEventsError` for one that is too long."""
    if len(event_id) > LONGEST_EVENT_ID:
        raise InvalidEventsError(f"event_id has {len(event_id)} bytes; allowed: 0 to {LONGEST_EVENT_ID}")
    if not event_id:
        return NO_EVENT_ID
    if EXPORTED_KEY.fullmatch(event_id):
        return int(event_id[1:], 16)
    return int.from_bytes(blake2b(event_id, digest_size=8).digest()) or 1


def exported_id(key: int) -> str:
    """Return an event id of which `event_key` is `key`."""
    return "" if key == NO_EVENT_ID else f"#{key:016x}"


def merge(stored: Events, appended: Events) -> Events:
    """Return both in order of time; of equal times the stored event comes first."""
    events = np.concatenate([stored, appended])
    return events[np.argsort(events["timestamp"], kind="stable")]


def without_ids(events: Events) -> Events:
    """Return the events as if none had an id."""
    nameless = events.copy()
    nameless["event_id"] = NO_EVENT_ID
    return nameless


def is_new(stored: Events, appended: Events) -> NDArray[np.bool_]:
    """Return which of the appended events [N] are neither stored nor appended before. Both are in order of
    time, in dtype `IDENTIFIED`."""
    id_N = appended["event_id"][appended["event_id"] != NO_EVENT_ID]
    if len(id_N):
        alike = np.isin(stored["timestamp"], appended["timestamp"]) | np.isin(stored["event_id"], id_N)
        stored = stored[alike]
    else:
        stored = stored[np.searchsorted(stored["timestamp"], appended["timestamp"][0]) :]
    events = np.concatenate([stored, appended])
    new = np.ones(len(events), bool)
    if len(events) == 1:
        return new
    without_id = events["event_id"] == NO_EVENT_ID
    described = (events["actions"] == 0, events["surface"], events["item_id"], events["timestamp"])
    columns = np.stack(
        [*(np.where(without_id, column, 0) for column in described), events["event_id"].view(np.int64)]
    )
    # A stable order: of equal ones, the first stays the first.
    order = np.lexsort(columns)
    repeats = (columns[:, order[1:]] == columns[:, order[:-1]]).all(axis=0)
    new[order[1:][repeats]] = False
    return new[len(stored) :]
