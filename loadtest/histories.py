"""The traffic file: users' histories as lines of JSON, which any system can write.

Shapes: U users, E events of all users, N events of one user.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Int64s = NDArray[np.int64]

COLUMNS = ("item_ids", "actions", "timestamps", "surfaces")


class HistoriesError(ValueError):
    """A traffic file that cannot be replayed."""


@dataclass(frozen=True, slots=True)
class UserHistory:
    """One user's events, oldest first."""

    user_id: str
    item_id_N: Int64s
    actions_N: Int64s
    timestamp_N: Int64s
    surface_N: Int64s

    def __len__(self) -> int:
        return len(self.item_id_N)

    def as_line(self) -> str:
        """The user as one line of a traffic file."""
        columns = (self.item_id_N, self.actions_N, self.timestamp_N, self.surface_N)
        lists = {name: column.tolist() for name, column in zip(COLUMNS, columns, strict=True)}
        return json.dumps({"user_id": self.user_id, **lists}, separators=(",", ":"))

    @classmethod
    def of_line(cls, line: str) -> Self:
        """Parse a line; raises `HistoriesError` naming the field that is wrong."""
        try:
            fields: dict[str, Any] = json.loads(line)
            user_id = str(fields["user_id"])
            rows = [np.array(fields[name], np.int64) for name in COLUMNS[:3]]
            rows.append(np.array(fields.get("surfaces", [0] * len(rows[0])), np.int64))
        except KeyError as error:
            raise HistoriesError(f"{error.args[0]} is missing") from None
        except (TypeError, ValueError, AttributeError, OverflowError) as error:
            raise HistoriesError(f"not a user with lists of integers: {error}") from None
        lengths = {name: row.shape for name, row in zip(COLUMNS, rows, strict=True)}
        if len(set(lengths.values())) > 1 or rows[0].ndim != 1:
            raise HistoriesError(f"shapes are {lengths}; allowed: lists of one length")
        if (np.diff(rows[2]) < 0).any():
            raise HistoriesError("timestamps is not ascending; allowed: oldest first")
        return cls(user_id, *rows)


def write_histories(path: Path, users: Iterable[UserHistory]) -> int:
    """Write a traffic file, and return how many users have at least one event and so are in it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for user in users:
            if len(user):
                file.write(user.as_line() + "\n")
                count += 1
    return count


def read_histories(path: Path) -> list[UserHistory]:
    """Read a traffic file; users without events are left out.

    Raises:
        HistoriesError: a line is wrong, or there is no user.
        OSError: the file cannot be read.
    """
    users = []
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                user = UserHistory.of_line(line)
            except HistoriesError as error:
                raise HistoriesError(f"{path}, line {number}: {error}") from None
            if len(user):
                users.append(user)
    if not users:
        raise HistoriesError(f"{path} has no user with events; allowed: 1 and more")
    return users
