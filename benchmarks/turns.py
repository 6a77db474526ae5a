"""What servers or ensembles cost more than the first of them, asked in turns, one request at a time and many.

Shapes: R requests or rounds.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from rich.table import Table

from benchmarks.unified.stacks import FillError, rotated
from experiments.report import Machine
from loadtest.outcomes import OK
from loadtest.plan import LoadPlan
from loadtest.sender import Reply, connect
from loadtest.traffic import AnyTraffic, Visit
from loadtest.windows import Window
from unipinrec.arrays import Float64s
from unipinrec.config import Config
from unipinrec.evaluation.bootstrap import RESAMPLES, Estimate, interval

SEED = 5


@dataclass(frozen=True, kw_only=True)
class TurnsPlan:
    """Sizes and durations."""

    out: Path
    sizes: str = "bench-cpu"
    """Preset of the models."""
    items: int = 20_000
    pairs: int
    """Requests that each side gets, one at a time, of each kind of traffic."""
    concurrency: int
    rounds: int
    seconds: float
    """Length of a window of load."""


class TrafficCost(Config):
    """The sides under one kind of traffic."""

    p50_ms: dict[str, float]
    """One request at a time, by side."""
    difference_ms: dict[str, Estimate]
    """Median of a side's time less that of the first, over pairs in turns, with a 95 % bootstrap interval."""
    qps: dict[str, tuple[float, ...]]
    """Of each round, with `concurrency` requests in flight, by side."""
    qps_ratio: dict[str, Estimate]
    """Median over rounds of a side's rate over that of the first, and the extremes."""

    @classmethod
    def of(cls, turns: Sequence["Turn"], qps: Mapping[str, tuple[float, ...]], **more: Any) -> Self:
        """Return what requests and rounds of load in turns came to, compared with the first side."""
        first, *others = qps
        took_ms = {name: np.array([turn[name].took_ms for turn in turns]) for name in qps}
        return cls(
            p50_ms={name: float(np.median(took_R)) for name, took_R in took_ms.items()},
            difference_ms={name: median_of(took_ms[name] - took_ms[first]) for name in others},
            qps=dict(qps),
            qps_ratio={name: median_ratio(qps[name], qps[first]) for name in others},
            **more,
        )

    def add_rows(self, table: Table, kind: str) -> None:
        """Add a row for each side: traffic, side, p50, difference, rate, and rate over that of the first."""
        for name, rates in self.qps.items():
            row = [kind, name, f"{self.p50_ms[name]:.2f} ms", "", f"{statistics.median(rates):.1f}", ""]
            if name in self.difference_ms:
                added, ratio = self.difference_ms[name], self.qps_ratio[name]
                row[3] = f"{added.mean:+.3f} ms ({added.low:+.3f} to {added.high:+.3f})"
                row[5] = f"{ratio.mean:.3f} ({ratio.low:.3f} to {ratio.high:.3f})"
            table.add_row(*row)


class TurnsReport(Config):
    """What was found, and how."""

    machine: Machine
    preset: str
    items: int
    pairs: int
    concurrency: int
    rounds: int
    seconds: float

    @classmethod
    def of(cls, plan: TurnsPlan, **found: Any) -> Self:
        """Return the report of a run by this plan on this machine."""
        sizes = {name: getattr(plan, name) for name in ("items", "pairs", "concurrency", "rounds", "seconds")}
        return cls(machine=Machine.here(), preset=plan.sizes, **sizes | found)


class Asked(NamedTuple):
    """One request."""

    took_ms: float
    reply: Reply


Turn = Mapping[str, Asked]
"""A request to every side."""


class Side:
    """One server or ensemble, asked for whoever its traffic has next."""

    def __init__(self, plan: LoadPlan, traffic: AnyTraffic, window: Callable[[], Window]) -> None:
        """`window` runs load on it, outside this process."""
        self.run_window = window
        self._plan, self._sender, self._traffic = plan, connect(plan), traffic

    def ask(self, visit: Visit | None = None) -> Asked:
        """Send one request, that of the next visit unless one is given.

        Raises:
            FillError: it failed.
        """
        visit = visit or self._traffic.next()
        prepared = self._sender.prepare(visit)
        began = time.perf_counter()
        reply = self._sender.send(prepared)
        took_ms = 1e3 * (time.perf_counter() - began)
        self._traffic.done(visit)
        if reply.status != OK:
            raise FillError(f"{self._plan.model} at {self._plan.url} answered a request with {reply.status}")
        return Asked(took_ms, reply)

    def fill(self, visits: int) -> None:
        """Send so many first visits, so that users return."""
        for visit in self._traffic.first_pass(visits):
            self.ask(visit)


def ask_in_turns(sides: Mapping[str, Side], times: int) -> Iterator[Turn]:
    """Yield a request to each side, in turns who is first."""
    for place in range(times):
        yield {name: sides[name].ask() for name in rotated(list(sides), place)}


def run_in_turns(sides: Mapping[str, Side], rounds: int) -> dict[str, tuple[float, ...]]:
    """Return the requests a second that each side answered, by round."""
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for place in range(rounds):
        for name in rotated(list(sides), place):
            rates[name].append(sides[name].run_window().measured.rps_reached)
    return {name: tuple(found) for name, found in rates.items()}


def median_of(value_R: Float64s) -> Estimate:
    """Return the median with a 95 % bootstrap interval."""
    drawn_BR = np.random.default_rng(SEED).choice(value_R, (RESAMPLES, len(value_R)))
    return Estimate(float(np.median(value_R)), *interval(np.median(drawn_BR, axis=1)))


def median_ratio(rate_R: Sequence[float], first_R: Sequence[float]) -> Estimate:
    """Return the median of rates over others of the same rounds, and the extremes."""
    ratios = [rate / first for rate, first in zip(rate_R, first_R, strict=True)]
    return Estimate(statistics.median(ratios), min(ratios), max(ratios))
