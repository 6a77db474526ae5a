"""Users and their histories: of a traffic file, which any system can write, or drawn as they are needed.

Shapes: U users, E events of all users, N events of one user, V items.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Int64s = NDArray[np.int64]

COLUMNS = ("item_ids", "actions", "timestamps", "surfaces")
EVENT_IDS = "event_ids"
SHOWN_CHARACTERS = 80
"""Characters of a refused value that its error message shows."""

ASKED_AFTER_S = 60
"""Seconds from the last event to the request."""

FIRST_TIME = 1_700_000_000
LONGEST_GAP_S = 5_000
"""Unix seconds before the first drawn event, and most seconds between two."""


class HistoriesError(ValueError):
    """A file of histories that cannot be used; the message is one line."""


@dataclass(frozen=True, slots=True)
class UserHistory:
    """One user's events, oldest first."""

    user_id: str
    item_id_N: Int64s
    actions_N: Int64s
    timestamp_N: Int64s
    surface_N: Int64s
    event_ids: Sequence[str] = field(default=(), kw_only=True)
    """Of each event, empty for one without; none at all where no event has one."""

    def __len__(self) -> int:
        return len(self.item_id_N)

    @property
    def request_time(self) -> int:
        """Unix seconds of a request that follows the last event."""
        return int(self.timestamp_N[-1]) + ASKED_AFTER_S

    def as_fields(self) -> dict[str, Any]:
        """Return the fields of the user's line in a traffic file."""
        columns = (self.item_id_N, self.actions_N, self.timestamp_N, self.surface_N)
        lists = {name: column.tolist() for name, column in zip(COLUMNS, columns, strict=True)}
        ids = {EVENT_IDS: list(self.event_ids)} if any(self.event_ids) else {}
        return {"user_id": self.user_id, **lists, **ids}

    @classmethod
    def of_fields(cls, fields: Any) -> Self:
        """Return the user of a line's fields.

        Raises:
            HistoriesError: a field is missing or not what is allowed, or times do not ascend.
        """
        if not isinstance(fields, dict):
            raise HistoriesError(f"line is {_shown(fields)}; allowed: an object")
        missing = [name for name in ("user_id", *COLUMNS[:3]) if name not in fields]
        if missing:
            raise HistoriesError(f"{missing[0]} is missing")
        user_id = fields["user_id"]
        if not isinstance(user_id, str) and not _is_integer(user_id):
            raise HistoriesError(f"user_id is {_shown(user_id)}; allowed: a text or an integer")
        columns = [_column(fields, name) for name in COLUMNS[:3]]
        columns.append(
            _column(fields, COLUMNS[3]) if COLUMNS[3] in fields else np.zeros(len(columns[0]), np.int64)
        )
        ids = _event_ids(fields)
        lengths = {name: len(column) for name, column in zip(COLUMNS, columns, strict=True)}
        lengths |= {EVENT_IDS: len(ids)} if EVENT_IDS in fields else {}
        if len(set(lengths.values())) > 1:
            raise HistoriesError(f"lengths are {lengths}; allowed: lists of one length")
        _check_ascending(columns[2])
        return cls(str(user_id), *columns, event_ids=ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnUsers:
    """Users without a file: the events of each are drawn from the seed whenever they are asked for."""

    users: int
    least_events: int
    most_events: int
    items: str
    """Path of a NumPy file with the item ids to draw from, on every host."""
    actions: int
    surfaces: int
    seed: int

    def __len__(self) -> int:
        return self.users

    def __getitem__(self, number: int, /) -> UserHistory:
        draw = np.random.default_rng((self.seed, number))
        length = int(draw.integers(self.least_events, self.most_events + 1))
        return UserHistory(
            f"drawn-{self.seed}-{number}",
            draw.choice(_item_ids(self.items), length),
            draw.integers(1, 2**self.actions, size=length),
            FIRST_TIME + draw.integers(1, LONGEST_GAP_S, size=length).cumsum(),
            draw.integers(self.surfaces, size=length),
        )


@lru_cache(maxsize=1)
def _item_ids(path: str) -> Int64s:
    item_id_V: Int64s = np.load(path)
    return item_id_V


def write_histories(path: Path, users: Iterable[UserHistory]) -> int:
    """Write a traffic file, and return how many users have at least one event and so are in it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for user in users:
            if len(user):
                file.write(json.dumps(user.as_fields(), separators=(",", ":")) + "\n")
                count += 1
    return count


def read_histories(path: Path) -> list[UserHistory]:
    """Read a traffic file; users without events are left out.

    Raises:
        HistoriesError: a line is wrong, or there is no user.
        OSError: the file cannot be read.
    """
    users = [user for _, user in numbered_histories(path) if len(user)]
    if not users:
        raise HistoriesError(f"{path} has no user with events; allowed: 1 and more")
    return users


def numbered_histories(path: Path) -> Iterator[tuple[int, UserHistory]]:
    """Yield each line's number, from 1, and user; empty lines are passed over.

    Raises:
        HistoriesError: a line is wrong; the message begins with path and line.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                yield number, UserHistory.of_fields(parsed(line))
            except HistoriesError as error:
                raise HistoriesError(f"{path}, line {number}: {error}") from None


def parsed(line: bytes) -> Any:
    """Return what a line holds. Raises `HistoriesError` for one that is no JSON."""
    try:
        return json.loads(line)
    except ValueError as error:
        raise HistoriesError(f"line is no JSON: {error}") from None


def _column(fields: Mapping[str, Any], name: str) -> Int64s:
    values = fields[name]
    if not isinstance(values, list):
        raise HistoriesError(f"{name} is {_shown(values)}; allowed: a list of integers")
    # Types at once, since a loop over all values takes longer than reading them.
    if set(map(type, values)) <= {int}:
        with suppress(OverflowError):
            return np.array(values, np.int64)
    place = next(place for place, value in enumerate(values) if not _is_integer(value))
    raise HistoriesError(f"{name} is {_shown(values[place])} at event {place}; allowed: integers of 64 bits")


def _event_ids(fields: Mapping[str, Any]) -> list[str]:
    values = fields.get(EVENT_IDS, [])
    if not isinstance(values, list):
        raise HistoriesError(f"{EVENT_IDS} is {_shown(values)}; allowed: a list of texts")
    for place, value in enumerate(values):
        if not isinstance(value, str):
            raise HistoriesError(f"{EVENT_IDS} is {_shown(value)} at event {place}; allowed: texts")
    return values


def _is_integer(value: Any) -> bool:
    return type(value) is int and -(2**63) <= value < 2**63


def _check_ascending(timestamp_N: Int64s) -> None:
    falls_N = timestamp_N[1:] < timestamp_N[:-1]
    if falls_N.any():
        place = int(falls_N.argmax())
        raise HistoriesError(
            f"timestamps is {timestamp_N[place + 1]} at event {place + 1}; "
            f"allowed: ascending, at least {timestamp_N[place]}"
        )


def _shown(value: Any) -> str:
    shown = json.dumps(value)
    return shown if len(shown) <= SHOWN_CHARACTERS else f"{shown[:SHOWN_CHARACTERS]}…"
