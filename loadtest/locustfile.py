"""Locust users that replay traffic: `locust -f loadtest/locustfile.py`, with the plan in UNIPINREC_LOAD_PLAN.

Each worker sends what it saw to the master, which writes every outcome into the plan's file.
"""

import os
import time
from pathlib import Path
from typing import Any

import gevent
import grpc.experimental.gevent
from locust import LoadTestShape, User, constant, events, task
from locust.env import Environment
from locust.exception import StopUser
from locust.runners import WorkerRunner

from loadtest.loops import Clock, open_loop, visit_once
from loadtest.outcomes import OK, Outcome, OutcomeLog, write_outcomes
from loadtest.plan import LoadPlan
from loadtest.schedule import Arrivals, arrivals, duration_s, level_at
from loadtest.sender import Sender, connect
from loadtest.traffic import Traffic

grpc.experimental.gevent.init_gevent()

PLAN_VARIABLE = "UNIPINREC_LOAD_PLAN"
PLAN = LoadPlan.parse(Path(os.environ[PLAN_VARIABLE]).read_text(encoding="utf-8"))
CLOSED = PLAN.arrivals is Arrivals.CLOSED

LAST_REPORT_S = 4.0
"""A worker reports every three seconds."""


class RefusedError(Exception):
    """A request that was not answered; its text is the status."""


class Replay:
    """One worker's share of a run."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._runner: Any = environment.runner
        self.log = OutcomeLog()
        self.all: list[Outcome] = []
        """Where the outcomes of all workers come together."""
        self.working = 0
        """Users who have not finished."""
        self.finished: dict[str, bool] = {}
        self.clock = Clock()
        self._sender: Sender | None = None
        self._traffic: Traffic | None = None

    @property
    def is_worker(self) -> bool:
        """Whether another process collects the outcomes."""
        return isinstance(self._runner, WorkerRunner)

    @property
    def stream(self) -> int:
        """This worker's place among all."""
        return int(getattr(self._runner, "worker_index", 0))

    @property
    def sender(self) -> Sender:
        """One for all users of this worker."""
        if self._sender is None:
            self._sender = connect(PLAN)
        return self._sender

    @property
    def traffic(self) -> Traffic:
        """One for all users of this worker, and the same again in each run."""
        if self._traffic is None:
            self._traffic = PLAN.open_traffic(self.stream)
        return self._traffic

    def restart(self) -> None:
        """Forget an earlier run."""
        self.log.take()
        self.all.clear()
        self.finished.clear()
        self._traffic = None
        self.clock = Clock()

    def record(self, outcome: Outcome) -> None:
        """Note an outcome, and tell Locust's own statistics."""
        self.log.add(outcome)
        self._environment.events.request.fire(
            request_type=PLAN.protocol.value,
            name=outcome.kind,
            response_time=outcome.latency_ms,
            response_length=0,
            exception=None if outcome.status == OK else RefusedError(outcome.status),
            context={},
        )

    def collect(self) -> list[Outcome]:
        """All outcomes that have come together here."""
        self.all += self.log.take()
        return self.all

    def everyone_finished(self) -> bool:
        """Whether every worker has said so."""
        return len(self.finished) == PLAN.workers and all(self.finished.values())


REPLAYS: dict[int, Replay] = {}


def replay_of(environment: Environment) -> Replay:
    """The run of a Locust environment."""
    return REPLAYS[id(environment)]


class Working:
    """Counts a user among those who have not finished."""

    def __init__(self, replay: Replay) -> None:
        self._replay = replay

    def __enter__(self) -> None:
        self._replay.working += 1

    def __exit__(self, *_: object) -> None:
        self._replay.working -= 1
        if not self._replay.working and self._replay.clock.elapsed_s() >= duration_s(PLAN.stages):
            self._replay.finished["here"] = True


class WaitingUser(User):
    """Sends a request as soon as the last one is answered."""

    abstract = not CLOSED
    wait_time = constant(0)

    @task
    def visit(self) -> None:
        """Until the plan's time is over; in the web interface, until stopped."""
        replay = replay_of(self.environment)
        with Working(replay):
            if PLAN.stages and replay.clock.elapsed_s() >= duration_s(PLAN.stages):
                raise StopUser
            visit_once(replay.sender, replay.traffic, replay.clock, replay.record)


class ScheduledUser(User):
    """A worker's share of a schedule: one such user stands for all of its callers."""

    abstract = CLOSED
    wait_time = constant(0)

    @task
    def arrive(self) -> None:
        """All requests of the schedule."""
        replay = replay_of(self.environment)
        due_S = arrivals(PLAN.stages, PLAN.arrivals, PLAN.seed)
        replay.clock = Clock()
        with Working(replay):
            open_loop(replay.sender, replay.traffic, due_S[replay.stream :: PLAN.workers], replay.record)
            gevent.sleep(max(duration_s(PLAN.stages) - replay.clock.elapsed_s(), 0.0))
        raise StopUser


class PlannedShape(LoadTestShape):
    """The stages of the plan, and then until everyone has finished."""

    abstract = not PLAN.stages

    @property
    def environment(self) -> Environment:
        """Of the runner that asks."""
        if self.runner is None:
            raise RuntimeError("the shape has no runner; Locust sets it before the first tick")
        return self.runner.environment

    def tick(self) -> tuple[int, float] | None:
        """Users and how fast they start."""
        elapsed_s = time.perf_counter() - self.start_time
        over_s = elapsed_s - duration_s(PLAN.stages)
        replay = replay_of(self.environment)
        if over_s > PLAN.timeout_s + LAST_REPORT_S or (over_s > 0 and replay.everyone_finished()):
            return None
        users = round(level_at(PLAN.stages, elapsed_s)) if CLOSED else PLAN.workers
        return users, float(users)


def prepare(environment: Environment, **_: Any) -> None:
    """Once in each process."""
    replay = REPLAYS[id(environment)] = Replay(environment)

    def start(**_: Any) -> None:
        replay.restart()

    def report(data: dict[str, Any], **_: Any) -> None:
        data["outcomes"] = [list(outcome) for outcome in replay.log.take()]
        data["finished"] = replay.finished.get("here", False)

    def receive(client_id: str, data: dict[str, Any], **_: Any) -> None:
        replay.all += [Outcome(*row) for row in data.get("outcomes", ())]
        replay.finished[client_id] = bool(data.get("finished"))

    def write(**_: Any) -> None:
        if not replay.is_worker:
            write_outcomes(Path(PLAN.outcomes), replay.collect())

    environment.events.test_start.add_listener(start)
    environment.events.report_to_master.add_listener(report)
    environment.events.worker_report.add_listener(receive)
    environment.events.test_stop.add_listener(write)
    environment.events.quit.add_listener(write)


events.init.add_listener(prepare)
