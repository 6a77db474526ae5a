"""What became of every single request, kept exactly: Locust's own statistics round to two digits."""

import csv
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

    @property
    def done_s(self) -> float:
        """Unix seconds of the reply."""
        return self.due_s + self.latency_ms / 1e3


def write_outcomes(path: Path, outcomes: Iterable[Outcome]) -> None:
    """Write a CSV file with a line for each, in order of when they were due."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(Outcome._fields)
        for outcome in sorted(outcomes):
            writer.writerow((f"{outcome.due_s:.6f}", f"{outcome.latency_ms:.3f}", *outcome[2:]))


def read_outcomes(path: Path) -> list[Outcome]:
    """Read what `write_outcomes` wrote."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.reader(file)
        next(rows, None)
        return [Outcome(float(due_s), float(latency_ms), *names) for due_s, latency_ms, *names in rows]
