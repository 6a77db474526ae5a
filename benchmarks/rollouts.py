"""What deploys and rollbacks cost callers: requests that fail, answers of other than one bundle, and latency
while a bundle loads and around the switch against that of the time between.

Shapes: R requests.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rich.table import Table

from benchmarks.random_bundle import RandomBundle, make_random_bundle
from benchmarks.unified.correctness import AnswerCheck
from benchmarks.unified.plan import Kind
from benchmarks.unified.report import Correctness
from benchmarks.unified.traffic import traffic_plan
from ensemble.server.launcher import check_bundle, watchdog_of
from ensemble.server.loopback import serve_on_loopback
from ensemble.server.rollout import Rollout
from ensemble.settings import ServingSettings
from experiments.report import Machine
from loadtest.answers import RecordedAnswer
from loadtest.generator import WindowPlan
from loadtest.generators import Generators
from loadtest.outcomes import OK, Outcome
from loadtest.schedule import Arrivals
from unipinrec.config import Config

SEEDS = (11, 12)
"""Of the weights of the two bundles."""
TOLERANCE = 1e-4
CHECKED = 100
"""Answers of each bundle that are compared with offline PyTorch."""
KEEP_EVERY = 5
BEFORE_S, AFTER_S = 0.5, 2.0
"""Around a switch."""
PAUSE_S = 5.0
"""Between two changes, and what is left out after one that ended."""


@dataclass(frozen=True, kw_only=True)
class RolloutPlan:
    """Sizes and durations."""

    out: Path
    sizes: str = "bench-cpu"
    """Preset of both models."""
    items: int = 20_000
    users: int = 2_000
    changes: int = 50
    """Deploys and rollbacks: of four, two each."""
    rate: float = 10.0
    """Requests a second."""
    seconds: float = 180.0
    """Length of a stretch of load. A change begins only if it will have ended by then."""
    seed: int = 5


@dataclass(slots=True)
class Change:
    """One deploy or rollback, in unix seconds."""

    kind: str
    began_s: float
    switched_s: float = 0.0
    ended_s: float = 0.0
    error: str = ""


class Latency(Config):
    """Requests that were due in one kind of time."""

    requests: int
    p50_ms: float
    p99_ms: float
    max_ms: float

    @classmethod
    def of(cls, outcomes: Sequence[Outcome]) -> "Latency":
        """Return what the answered requests took."""
        took_R = np.array([outcome.latency_ms for outcome in outcomes if outcome.status == OK] or [0.0])
        p50, p99 = np.quantile(took_R, [0.5, 0.99])
        return cls(requests=len(outcomes), p50_ms=float(p50), p99_ms=float(p99), max_ms=float(took_R.max()))


class RolloutReport(Config):
    """What was found, and how."""

    machine: Machine
    preset: str
    items: int
    rate: float
    pool_slots: int
    changes: dict[str, int]
    """By kind."""
    refused: tuple[str, ...]
    """What ended a deploy or rollback."""
    seconds: dict[str, tuple[float, float]]
    """Median and longest, by kind of change."""
    requests: int
    failed: dict[str, int]
    """By status."""
    latency: dict[str, Latency]
    """`between` changes, while a bundle is `loading` or unloading, and around a `switch`."""
    p99_ratio: dict[str, float]
    """To that between changes."""
    answers: dict[str, Correctness]
    """Sampled answers against offline PyTorch of the bundle that they name."""
    memory_mib: dict[str, int]
    """Of the nodes of each bundle, with both loaded."""

    def table(self) -> Table:
        """Return a row for each kind of time."""
        table = Table("time", "requests", "p50 ms", "p99 ms", "p99 ratio", title="rollouts")
        for name, found in self.latency.items():
            ratio = f"{self.p99_ratio.get(name, 1.0):.2f}"
            table.add_row(name, str(found.requests), f"{found.p50_ms:.1f}", f"{found.p99_ms:.1f}", ratio)
        return table


def measure_rollouts(plan: RolloutPlan, tell: Callable[[str], None]) -> RolloutReport:
    """Deploy two bundles in turns, and roll back, while requests come at a steady rate.

    Raises:
        ServerError: the server does not start.
        GeneratorError: the load's process ended.
    """
    made = [
        make_random_bundle(plan.items, plan.out / "bundles", tell, sizes=plan.sizes, seed=s) for s in SEEDS
    ]
    settings = ServingSettings(bundle=made[0].folder, histories=plan.out / "no-histories", histories_url=None)
    load = traffic_plan(made[0], Kind.ZIPF, folder=plan.out, users=plan.users, seed=plan.seed)
    with (
        serve_on_loopback(settings, log_path=plan.out / "rollouts.log") as server,
        watchdog_of(server, tell),
        Generators(1, plan.out) as generators,
    ):
        rollout, changes = Rollout(server, check_bundle), _changes(plan.changes, made)
        load, memory = replace(load, url=server.grpc_url), dict[str, int]()
        done, outcomes, answers = list[Change](), list[Outcome](), list[RecordedAnswer]()
        while len(done) < plan.changes:
            window = WindowPlan(
                arrivals=Arrivals.POISSON,
                level=plan.rate,
                seconds=plan.seconds,
                keep_every=KEEP_EVERY,
                seed=plan.seed + len(done),
            )
            generators.start(load, window)
            ends_s = max(generators.await_mark()) + plan.seconds
            first = len(done)
            while len(done) < plan.changes and (len(done) == first or _fits(done, ends_s)):
                time.sleep(PAUSE_S)
                done.append(_run(rollout, *next(changes)))
                tell(f"{len(done)} of {plan.changes}: {_described(done[-1])}")
                found = rollout.status()
                memory |= {
                    f"{n['bundle']}": n["memory_mib"] for n in (found["serving"], found["standby"]) if n
                }
            generators.await_mark()
            generated = generators.finish()
            outcomes += generated.outcomes
            answers += generated.answers
            failed = sum(outcome.status != OK for outcome in outcomes)
            tell(f"{len(outcomes)} requests, {failed} failed")
    latency = {name: Latency.of(found) for name, found in by_time(outcomes, done).items()}
    kinds = Counter(change.kind for change in done)
    return RolloutReport(
        machine=Machine.here(),
        preset=plan.sizes,
        items=plan.items,
        rate=plan.rate,
        pool_slots=settings.pool_slots,
        changes=dict(kinds),
        refused=tuple(change.error for change in done if change.error),
        seconds={kind: _took([c for c in done if c.kind == kind]) for kind in kinds},
        requests=len(outcomes),
        failed=dict(Counter(outcome.status for outcome in outcomes if outcome.status != OK)),
        latency=latency,
        p99_ratio={n: found.p99_ms / latency["between"].p99_ms for n, found in latency.items()},
        answers={bundle.manifest.bundle_id: _checked(bundle, answers) for bundle in made},
        memory_mib=memory,
    )


def by_time(outcomes: Sequence[Outcome], changes: Sequence[Change]) -> dict[str, list[Outcome]]:
    """Return the outcomes by what was going on when they were due; those soon after a change are left out."""
    found: dict[str, list[Outcome]] = {"between": [], "loading": [], "switch": []}
    for outcome in outcomes:
        due_s = outcome.due_s
        if any(c.switched_s - BEFORE_S <= due_s < c.switched_s + AFTER_S for c in changes):
            found["switch"].append(outcome)
        elif any(c.began_s <= due_s < c.ended_s for c in changes):
            found["loading"].append(outcome)
        elif not any(c.ended_s <= due_s < c.ended_s + PAUSE_S / 2 for c in changes):
            found["between"].append(outcome)
    return found


def _changes(count: int, made: Sequence[RandomBundle]) -> Iterator[tuple[str, Path | None]]:
    """Both bundles are deployed in turns, and between them the one is turned back to and forth."""
    for number in range(count):
        if number % 4 < 2:
            yield "deploy", made[1 - number % 2].folder
        else:
            yield "rollback", None


def _run(rollout: Rollout, kind: str, bundle: Path | None) -> Change:
    change = Change(kind, time.time())

    def note(line: str) -> None:
        if line.startswith("Serving"):
            change.switched_s = time.time()

    try:
        if bundle is None:
            rollout.rollback(note)
        else:
            rollout.deploy(bundle, note)
    except Exception as error:  # Whatever it is, the report tells.
        change.error = f"{kind}: {error}"
    change.ended_s = time.time()
    return change


def _fits(done: Sequence[Change], ends_s: float) -> bool:
    longest_s = max(change.ended_s - change.began_s for change in done)
    return time.time() + PAUSE_S + 1.5 * longest_s + PAUSE_S < ends_s


def _took(changes: Sequence[Change]) -> tuple[float, float]:
    took = [change.ended_s - change.began_s for change in changes]
    return float(np.median(took)), max(took)


def _described(change: Change) -> str:
    return change.error or f"{change.kind} in {change.ended_s - change.began_s:.2f} s"


def _checked(bundle: RandomBundle, answers: Sequence[RecordedAnswer]) -> Correctness:
    check, own = AnswerCheck(bundle, TOLERANCE, CHECKED), bundle.manifest.bundle_id
    check.add(own, [recorded for recorded in answers if recorded.answer.bundle_id == own])
    return check.found()
