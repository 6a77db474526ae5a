"""Where a policy's decisions lie: a table in shared memory, which `scoring` reads without asking anybody."""

import mmap
import os
import secrets
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from ensemble.policy.request_channel import FOLDER

TABLE = "decisions"
ROWS = 1 << 15
"""Decisions that lie there at once; later ones take the places of the oldest."""

Outcome = Literal["decided", "failed", "invalid", "withheld"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
"""`failed`: the policy raised; `invalid`: its values are no numbers; `withheld`: no alpha is set."""

ROW = np.dtype(
    [
        ("number", "<i8"),
        ("revision", "<i8"),
        ("alpha", "<f8"),
        ("arm", "<i4"),
        ("cohort", "<i4"),
        ("outcome", "<i4"),
        ("took_us", "<u4"),
        ("checksum", "<u4"),
    ]
)
CHECKED = ROW.itemsize - 4
LONGEST_US = 2**32 - 1


@dataclass(frozen=True, slots=True)
class Decision:
    """What a policy says about one request."""

    outcome: Outcome
    arm: int = 0
    alpha: float = 0.0
    cohort: int = 0
    """Index in the policy's cohorts."""
    revision: int = 0
    """Of the alphas."""
    took_us: int = 0
    """Microseconds from when it was asked for."""


class DecisionTable:
    """One process's view of the table; whoever comes first makes it.

    A row is written while others may read it. Its checksum, which covers the number and the bundle too, tells
    whether a reader has all of one decision, on any processor.
    """

    def __init__(self, runtime_dir: Path, bundle_id: str) -> None:
        folder = runtime_dir / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / TABLE
        if not path.exists():
            _make(path, ROWS * ROW.itemsize)
        with path.open("r+b") as file:
            self._row_R = np.frombuffer(mmap.mmap(file.fileno(), ROWS * ROW.itemsize), ROW)
        self._seed = zlib.crc32(bundle_id.encode())

    def put(self, number: int, decision: Decision) -> None:
        """Write the decision of a ticket."""
        row = np.zeros(1, ROW)
        row[0] = (
            number,
            decision.revision,
            decision.alpha,
            decision.arm,
            decision.cohort,
            OUTCOMES.index(decision.outcome),
            min(decision.took_us, LONGEST_US),
            0,
        )
        row["checksum"] = self._checksum(row.tobytes())
        self._row_R[number % ROWS] = row[0]

    def find(self, number: int) -> Decision | None:
        """Return the decision of a ticket, or None while it is not there."""
        row = self._row_R[number % ROWS].tobytes()
        found = np.frombuffer(row, ROW)[0]
        if found["number"] != number or found["checksum"] != self._checksum(row):
            return None
        return Decision(
            OUTCOMES[found["outcome"]],
            int(found["arm"]),
            float(found["alpha"]),
            int(found["cohort"]),
            int(found["revision"]),
            int(found["took_us"]),
        )

    def _checksum(self, row: bytes) -> int:
        return zlib.crc32(row[:CHECKED], self._seed)


def _make(path: Path, size: int) -> None:
    """Make a file of zeros, or leave the one that another process made meanwhile."""
    draft = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        os.truncate(descriptor, size)
    finally:
        os.close(descriptor)
    try:
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink()
