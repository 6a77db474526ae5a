"""What became of every single request, kept exactly: Locust's own statistics round to two digits."""

import csv
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

OK = "OK"


class Outcome(NamedTuple):
    """One request."""

    due_s: float
    """Unix seconds when it was sent, or by the schedule should have been."""
    latency_ms: float
    """From then to the answer, so what it waited for before it could be sent is part of it."""
    kind: str
    """The kind of caller."""
    status: str
    """`OK`, or the status of gRPC or HTTP."""
    kv_source: str
    """`prefill`, `prefix` or `recomputed`; empty for an error."""


class OutcomeLog:
    """Outcomes in order of their replies; thread-safe."""

    def __init__(self) -> None:
        self._outcomes: list[Outcome] = []
        self._lock = threading.Lock()

    def add(self, outcome: Outcome) -> None:
        """Add one."""
        with self._lock:
            self._outcomes.append(outcome)

    def take(self) -> list[Outcome]:
        """All since the last call."""
        with self._lock:
            taken, self._outcomes = self._outcomes, []
        return taken


def write_outcomes(path: Path, outcomes: Iterable[Outcome]) -> None:
    """Write a CSV file with a line for each, in order of when they were due."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(Outcome._fields)
        for one in sorted(outcomes):
            writer.writerow(
                (f"{one.due_s:.6f}", f"{one.latency_ms:.3f}", one.kind, one.status, one.kv_source)
            )


def read_outcomes(path: Path) -> list[Outcome]:
    """Read what `write_outcomes` wrote."""
    with path.open(encoding="utf-8", newline="") as file:
        return [
            Outcome(
                float(row["due_s"]), float(row["latency_ms"]), row["kind"], row["status"], row["kv_source"]
            )
            for row in csv.DictReader(file)
        ]
