"""Load generators against a server that only sleeps: what they count, and what they must not leave out."""

import time
from dataclasses import replace
from pathlib import Path

import gevent
import numpy as np
import pytest

from loadtest.generator import Recorder, WindowPlan
from loadtest.generators import GeneratorError, Generators
from loadtest.histories import UserHistory, write_histories
from loadtest.loops import Requests
from loadtest.measures import measure
from loadtest.outcomes import OK, Outcome
from loadtest.plan import LoadPlan
from loadtest.schedule import Arrivals
from loadtest.sender import Reply, Sender
from loadtest.traffic import Traffic, TrafficMix, Visit
from loadtest.watch import ServerWatch
from loadtest.windows import Windows
from tests.support.triton_servers import GrpcServer

USERS = [UserHistory(str(user), *(np.arange(1, 40) for _ in range(4))) for user in range(30)]
RETURNING = TrafficMix(new=0, anonymous=0, returning=1, zipf=0, overlapping=False)


class SleepingServer(Sender):
    """Serves requests in order, each for `service_s`; after `stall_after` of them it stalls once."""

    def __init__(self, service_s: float, stall_after: int = -1, stall_s: float = 0.0) -> None:
        super().__init__(LoadPlan(url=""))
        self._service_s = service_s
        self._stall = {stall_after: stall_s}
        self._free_s = 0.0
        self.taken = 0
        self.served = 0
        self.under_way = 0
        self.most_under_way = 0

    def prepare(self, visit: Visit) -> list[object]:
        return [visit]

    def send(self, _: list[object]) -> Reply:
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        taken, self.taken = self.taken, self.taken + 1
        begin_s = max(time.monotonic(), self._free_s)
        self._free_s = begin_s + self._service_s + self._stall.get(taken, 0.0)
        gevent.sleep(self._free_s - time.monotonic())
        self.served += 1
        self.under_way -= 1
        return self.reply()

    def reply(self) -> Reply:
        return Reply(OK, "prefix")


class RefusingServer(SleepingServer):
    """Answers every other request with an error."""

    def reply(self) -> Reply:
        return Reply(OK, "prefix") if self.served % 2 else Reply("UNAVAILABLE")


def traffic(users: int = 30) -> Traffic:
    return Traffic(USERS[:users], RETURNING, seed=1)


def closed_loop(server: Sender, users: int, seconds: float) -> list[Outcome]:
    seen, until = Recorder(0), time.monotonic() + seconds
    requests = Requests(server, source := traffic(), seen.add)
    requests.send_all(lambda: source.next() if time.monotonic() < until else None, users)
    return seen.outcomes


def open_loop(server: Sender, due_S: list[float], users: int = 30) -> list[Outcome]:
    seen = Recorder(0)
    Requests(server, traffic(users), seen.add).send_at(np.array(due_S))
    return seen.outcomes


def test_a_closed_loop_keeps_its_users_busy_and_counts_what_the_server_did() -> None:
    server = SleepingServer(0.005)
    outcomes = closed_loop(server, 4, 0.7)
    began = min(outcome.due_s for outcome in outcomes)
    measured = measure(outcomes, Arrivals.CLOSED, began + 0.1, began + 0.6)
    assert server.most_under_way == 4
    # Its own sleeps keep to the time; the ends of the window do so to a percent.
    assert 0 < measured.rps_reached <= 1.01 / 0.005
    # Little's law: with three others served first, a request takes four times as long as its service.
    assert measured.p50_ms == pytest.approx(4e3 / measured.rps_reached, rel=0.3)
    # Requests of the warm-up and those awaited after the window do not count.
    assert measured.requests < server.served == len(outcomes)


def test_errors_are_counted_by_status_and_are_in_no_percentile() -> None:
    outcomes = closed_loop(RefusingServer(0.001), 2, 0.4)
    began = min(outcome.due_s for outcome in outcomes)
    measured = measure(outcomes, Arrivals.CLOSED, began, began + 0.4)
    assert set(measured.errors_by_status) == {"UNAVAILABLE"}
    assert measured.errors + measured.answered == measured.requests
    assert set(measured.kv_source) == {"prefix"}


def test_a_stalled_server_shows_in_the_latencies_of_a_schedule_and_hardly_in_a_closed_loop() -> None:
    """Coordinated omission: a closed loop sends nothing during the stall, so one request alone is slow."""
    opened = open_loop(SleepingServer(0.002, 20, 0.3), (np.arange(100) * 0.01).tolist())
    slow = [outcome for outcome in opened if outcome.latency_ms > 50]
    # 0.3 s of arrivals at 100 a second met the stall.
    assert 20 <= len(slow) <= 60
    closed = closed_loop(SleepingServer(0.002, 20, 0.3), 1, 0.9)
    assert len([outcome for outcome in closed if outcome.latency_ms > 50]) == 1


def test_a_request_that_waits_for_its_user_counts_from_when_it_was_due() -> None:
    """One user, whose second visit is due while the first is under way."""
    outcomes = open_loop(SleepingServer(0.1), [0.0, 0.01, 0.02], users=1)
    assert [outcome.latency_ms for outcome in outcomes] == pytest.approx([100, 190, 280], abs=60)


def answers_of(users: int, folder: Path) -> tuple[GrpcServer, LoadPlan]:
    path = folder / "traffic.jsonl"
    write_histories(path, USERS[:users])
    server = GrpcServer()
    plan = LoadPlan(url=server.url, traffic=str(path), mix=RETURNING, num_results=3, timeout_s=5.0)
    return server, plan


def test_windows_go_on_until_they_have_their_replies_and_keep_some_answers(tmp_path: Path) -> None:
    """Real processes, and a real server that takes 20 ms for each of four requests at once."""
    server, plan = answers_of(12, tmp_path)
    server.sleeps_s = [0.02] * 1_000
    with Generators(1, tmp_path) as generators:
        windows = Windows(generators, ServerWatch({}))
        filled = windows.first_pass(plan, WindowPlan(arrivals=Arrivals.CLOSED, level=4, first_pass=12))
        window = windows.run(
            plan,
            WindowPlan(arrivals=Arrivals.CLOSED, level=4, seconds=0.05, least_replies=60, keep_every=10),
        )
        scheduled = windows.run(plan, WindowPlan(arrivals=Arrivals.EVEN, level=40, seconds=0.5))
    server.stop()
    assert [outcome.status for outcome in filled] == [OK] * 12
    # A window goes on by its length, in which at most four times three requests are answered.
    assert 60 <= window.measured.answered <= 60 + 16
    assert window.measured.errors == 0
    assert len(window.outcomes) >= window.measured.answered + 4
    assert len(window.answers) == -(-len(window.outcomes) // 10)
    for recorded in window.answers:
        # The server answers with the user id as the item id.
        assert recorded.answer.item_id_K.tolist() == [int(recorded.history.user_id)]
        assert recorded.answer.bundle_id == "bundle-1"
        # The first pass has sent the older 20 of 39 events, and each return brings at least one more.
        assert len(recorded.history) > 20
    assert window.generator_cores > 0
    assert scheduled.measured.requests == 20
    assert scheduled.answers == []


def test_the_workers_share_users_and_requests(tmp_path: Path) -> None:
    server, plan = answers_of(30, tmp_path)
    plan = replace(plan, workers=2)
    with Generators(2, tmp_path) as generators:
        windows = Windows(generators, ServerWatch({}))
        filled = windows.first_pass(plan, WindowPlan(arrivals=Arrivals.CLOSED, level=2, first_pass=9))
        window = windows.run(plan, WindowPlan(arrivals=Arrivals.EVEN, level=50, seconds=0.5))
    server.stop()
    assert len(filled) == 9
    assert window.measured.requests == len(window.outcomes) == 25


def test_a_generator_that_ends_is_told_with_its_last_words(tmp_path: Path) -> None:
    plan = LoadPlan(url="127.0.0.1:9", traffic=str(tmp_path / "absent.jsonl"))
    with Generators(1, tmp_path) as generators, pytest.raises(GeneratorError, match="No such file"):
        Windows(generators, ServerWatch({})).run(plan, WindowPlan(arrivals=Arrivals.CLOSED, level=1))
