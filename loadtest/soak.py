"""Constant load for a long time: does anything grow, fail or slow down.

Shapes: T samples over time.
"""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

from loadtest.measures import Measured
from loadtest.report import Check
from loadtest.schedule import Arrivals
from loadtest.watch import ServerWatch

WARM_UP_SHARE = 0.2
"""Share of the run; memory may grow in it, as caches fill."""

COMPARED_SHARE = 0.2
"""Share of the samples behind the warm-up: medians of the first and of the last ones are compared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SoakPlan:
    """The load, and what it must not do to the server."""

    rate: float
    """Requests a second."""
    arrivals: Arrivals
    seconds: float
    """Warm-up included."""
    every_s: float
    """Between two looks at memory."""
    max_growth: float
    """Growth of memory, as a share."""
    max_p99_over_p50: float

    @property
    def warm_up_s(self) -> float:
        """Seconds that are not measured."""
        return WARM_UP_SHARE * self.seconds


@dataclass(frozen=True, slots=True)
class MemorySample:
    """Memory at one moment."""

    at_s: float
    """Seconds from the begin of the load."""
    rss_bytes: int
    """Resident memory of all server processes together."""
    shared_bytes: int
    """Bytes in the server's files in shared memory."""


def growth(bytes_T: Sequence[int]) -> float:
    """Return the change from the first to the last samples behind the warm-up, as a share.

    Raises `ValueError` for fewer than two samples behind the warm-up.
    """
    behind = bytes_T[int(len(bytes_T) * WARM_UP_SHARE) :]
    if len(behind) < 2:
        raise ValueError(f"samples behind the warm-up are {len(behind)}; allowed: 2 and more")
    compared = max(1, int(len(behind) * COMPARED_SHARE))
    first, last = median(behind[:compared]), median(behind[-compared:])
    return last / first - 1 if first else 0.0


def soak_checks(plan: SoakPlan, measured: Measured, samples: Sequence[MemorySample]) -> list[Check]:
    """Return everything that a soak has to keep."""
    return [
        Check("errors", measured.errors, 0),
        Check("p99 over p50", measured.p99_ms / measured.p50_ms, plan.max_p99_over_p50),
        Check("growth of resident memory", growth([sample.rss_bytes for sample in samples]), plan.max_growth),
        Check(
            "growth of shared memory", growth([sample.shared_bytes for sample in samples]), plan.max_growth
        ),
    ]


@contextmanager
def sampling(watch: ServerWatch, every_s: float) -> Iterator[list[MemorySample]]:
    """Yield a list that a thread appends to while the block runs."""
    samples: list[MemorySample] = []
    stopped, began = threading.Event(), time.monotonic()

    def sample() -> None:
        while not stopped.wait(every_s):
            samples.append(MemorySample(time.monotonic() - began, watch.rss_bytes(), watch.shared_bytes()))

    thread = threading.Thread(target=sample, name="soak")
    thread.start()
    try:
        yield samples
    finally:
        stopped.set()
        thread.join()
