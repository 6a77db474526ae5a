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

from loadtest.loops import Requests
from loadtest.outcomes import OK, Outcome, write_outcomes
from loadtest.plan import LoadPlan
from loadtest.schedule import Arrivals, arrivals, duration_s, level_at
from loadtest.sender import connect

grpc.experimental.gevent.init_gevent()

PLAN_VARIABLE = "UNIPINREC_LOAD_PLAN"
PLAN = LoadPlan.read(Path(os.environ[PLAN_VARIABLE]))
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
        self.unsent: list[Outcome] = []
        """Outcomes that the master does not know yet."""
        self.all: list[Outcome] = []
        """Where the outcomes of all workers come together."""
        self.working = 0
        """Users who have not finished."""
        self.finished: dict[str, bool] = {}
        self._requests: Requests | None = None

    @property
    def is_worker(self) -> bool:
        """Whether another process collects the outcomes."""
        return isinstance(self._runner, WorkerRunner)

    @property
    def stream(self) -> int:
        """This worker's place among all."""
        return int(getattr(self._runner, "worker_index", 0))

    @property
    def requests(self) -> Requests:
        """The requests of this worker's users, the same in each run; the clock starts with the first."""
        if self._requests is None:
            self._requests = Requests(connect(PLAN), PLAN.open_traffic(self.stream), self.record)
        return self._requests

    @property
    def over(self) -> bool:
        """Whether the time of the plan's stages is over."""
        return self.requests.clock.elapsed_s() >= duration_s(PLAN.stages)

    def restart(self) -> None:
        """Forget an earlier run."""
        self.unsent.clear()
        self.all.clear()
        self.finished.clear()
        self._requests = None

    def record(self, outcome: Outcome, *_: object) -> None:
        """Note an outcome, and tell Locust's own statistics."""
        self.unsent.append(outcome)
        self._environment.events.request.fire(
            request_type=PLAN.protocol.value,
            name=outcome.kind,
            response_time=outcome.latency_ms,
            response_length=0,
            exception=None if outcome.status == OK else RefusedError(outcome.status),
            context={},
        )

    def take(self) -> list[Outcome]:
        """Return all outcomes since the last call."""
        taken, self.unsent = self.unsent, []
        return taken

    def everyone_finished(self) -> bool:
        """Return whether every worker has said so."""
        return len(self.finished) == PLAN.workers and all(self.finished.values())


REPLAYS: dict[int, Replay] = {}


def replay_of(environment: Environment) -> Replay:
    """Return the run of a Locust environment."""
    return REPLAYS[id(environment)]


class Working:
    """Counts a user among those who have not finished."""

    def __init__(self, replay: Replay) -> None:
        self._replay = replay

    def __enter__(self) -> None:
        self._replay.working += 1

    def __exit__(self, *_: object) -> None:
        self._replay.working -= 1
        if not self._replay.working and self._replay.over:
            self._replay.finished["here"] = True


class WaitingUser(User):
    """Sends a request as soon as the last one is answered."""

    abstract = not CLOSED
    wait_time = constant(0)

    @task
    def visit(self) -> None:
        """Send a request, until the plan's time is over or the web interface stops it."""
        replay = replay_of(self.environment)
        with Working(replay):
            if PLAN.stages and replay.over:
                raise StopUser
            replay.requests.send(replay.requests.traffic.next())


class ScheduledUser(User):
    """A worker's share of a schedule: one such user stands for all of its callers."""

    abstract = CLOSED
    wait_time = constant(0)

    @task
    def arrive(self) -> None:
        """Send all requests of the schedule."""
        replay = replay_of(self.environment)
        due_S = arrivals(PLAN.stages, PLAN.arrivals, PLAN.seed)
        with Working(replay):
            replay.requests.send_at(due_S[replay.stream :: PLAN.workers])
            gevent.sleep(max(duration_s(PLAN.stages) - replay.requests.clock.elapsed_s(), 0.0))
        raise StopUser


class PlannedShape(LoadTestShape):
    """The stages of the plan, and then until everyone has finished."""

    abstract = not PLAN.stages

    @property
    def environment(self) -> Environment:
        """The environment of the runner that asks."""
        if self.runner is None:
            raise RuntimeError("the shape has no runner; Locust sets it before the first tick")
        return self.runner.environment

    def tick(self) -> tuple[int, float] | None:
        """Return the users and how fast they start; none at the end."""
        elapsed_s = time.perf_counter() - self.start_time
        over_s = elapsed_s - duration_s(PLAN.stages)
        replay = replay_of(self.environment)
        if over_s > PLAN.timeout_s + LAST_REPORT_S or (over_s > 0 and replay.everyone_finished()):
            return None
        users = round(level_at(PLAN.stages, elapsed_s)) if CLOSED else PLAN.workers
        return users, float(users)


def prepare(environment: Environment, **_: Any) -> None:
    """Join a run; called once in each process."""
    replay = REPLAYS[id(environment)] = Replay(environment)

    def start(**_: Any) -> None:
        replay.restart()

    def report(data: dict[str, Any], **_: Any) -> None:
        data["outcomes"] = replay.take()
        data["finished"] = replay.finished.get("here", False)

    def receive(client_id: str, data: dict[str, Any], **_: Any) -> None:
        replay.all += [Outcome(*row) for row in data.get("outcomes", ())]
        replay.finished[client_id] = bool(data.get("finished"))

    def write(**_: Any) -> None:
        if not replay.is_worker:
            replay.all += replay.take()
            write_outcomes(Path(PLAN.outcomes), replay.all)

    environment.events.test_start.add_listener(start)
    environment.events.report_to_master.add_listener(report)
    environment.events.worker_report.add_listener(receive)
    environment.events.test_stop.add_listener(write)
    environment.events.quit.add_listener(write)


events.init.add_listener(prepare)
