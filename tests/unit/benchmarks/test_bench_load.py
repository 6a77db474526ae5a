"""Load generators against a server that only sleeps: what they count, and what they must not leave out."""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pytest

from benchmarks.caller import OK, Reply
from benchmarks.load import REPLIES_PER_WORKER, closed_loop, open_loop, poisson_schedule
from benchmarks.measures import NoAnswerError, measure_closed, measure_open
from benchmarks.workload import ColdTraffic, EventSpace, Visit, WarmTraffic

SPACE = EventSpace(items=9, actions=1, surfaces=1, max_history=4, window_block=2)


class Answered(Reply):
    """An answer that nobody unpacks."""

    __slots__ = ()

    @property
    def kv_source(self) -> str:
        return "prefill"

    def answer(self) -> None:
        return None


class SleepingServer:
    """Serves requests in order, each for `service_s`; after `stall_after` of them it stalls once."""

    def __init__(self, service_s: float, stall_after: int = -1, stall_s: float = 0.0) -> None:
        self._service_s = service_s
        self._stall = {stall_after: stall_s}
        self._queue = ThreadPoolExecutor(1)
        self.served = 0
        self.under_way = 0
        self.most_under_way = 0

    def prepare(self, visit: Visit) -> Visit:
        return visit

    def call(self, prepared: Visit) -> Reply:
        return self._submit(prepared).result()

    def start(self, prepared: Visit, done: Callable[[Reply], None]) -> None:
        self._submit(prepared).add_done_callback(lambda future: done(future.result()))

    def reply(self) -> Reply:
        return Answered(OK)

    def _submit(self, prepared: Visit) -> "Future[Reply]":
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        return self._queue.submit(self._serve, prepared)

    def _serve(self, _: Visit) -> Reply:
        time.sleep(self._service_s + self._stall.get(self.served, 0.0))
        self.served += 1
        self.under_way -= 1
        return self.reply()


class RefusingServer(SleepingServer):
    """Answers every other request with an error."""

    def reply(self) -> Reply:
        return Answered(OK) if self.served % 2 else Reply("UNAVAILABLE")


class DownServer(SleepingServer):
    """Answers nothing."""

    def reply(self) -> Reply:
        return Reply("UNAVAILABLE")


def test_a_closed_loop_keeps_its_workers_busy_and_counts_what_the_server_did() -> None:
    server = SleepingServer(0.005)
    recording = closed_loop(server, ColdTraffic(SPACE, 1), concurrency=4, ramp_s=0.1, seconds=0.6)
    measured = measure_closed(recording)
    assert server.most_under_way == 4
    assert 0 < measured.qps <= 1 / 0.005
    # Little's law: with three others served first, a request takes four times as long as its service.
    assert measured.p50_ms == pytest.approx(4e3 / measured.qps, rel=0.3)
    # Requests in the ramp and those awaited after the window do not count.
    assert measured.requests < server.served == len(recording.outcomes)


@pytest.mark.parametrize(("least", "expected"), [(1, 5 * REPLIES_PER_WORKER), (16, 16)])
def test_a_short_window_goes_on_until_it_has_its_replies(least: int, expected: int) -> None:
    recording = closed_loop(
        SleepingServer(0.02),
        ColdTraffic(SPACE, 1),
        concurrency=5,
        ramp_s=0,
        seconds=0.01,
        least_replies=least,
    )
    assert expected <= measure_closed(recording).requests <= expected + 3


def test_errors_are_counted_by_status_and_are_in_no_percentile() -> None:
    server = RefusingServer(0.001)
    recording = closed_loop(server, ColdTraffic(SPACE, 1), concurrency=2, ramp_s=0, seconds=0.4)
    measured = measure_closed(recording)
    assert set(measured.errors) == {"UNAVAILABLE"}
    assert (
        measured.errors["UNAVAILABLE"] + len([o for o in recording.outcomes if o.status == OK])
        == server.served
    )
    assert set(measured.kv_source) == {"prefill"}


def test_nothing_answered_is_an_error_and_not_a_zero() -> None:
    recording = open_loop(DownServer(0), ColdTraffic(SPACE, 1), np.array([0.0, 0.01]))
    with pytest.raises(NoAnswerError, match="UNAVAILABLE"):
        measure_open(recording)


def test_a_stalled_server_shows_in_the_latencies_of_a_schedule_and_hardly_in_a_closed_loop() -> None:
    """Coordinated omission: a closed loop sends nothing during the stall, so one request alone is slow."""
    due_S = np.arange(100) * 0.01
    opened = open_loop(SleepingServer(0.002, 20, 0.3), ColdTraffic(SPACE, 1), due_S)
    slow = [one for one in opened.outcomes if one.done_s - one.due_s > 0.05]
    # 0.3 s of arrivals at 100 a second met the stall.
    assert 20 <= len(slow) <= 60
    measured = measure_open(opened)
    assert measured.p99_ms > 250
    assert measured.p50_ms < 50
    closed = closed_loop(
        SleepingServer(0.002, 20, 0.3), ColdTraffic(SPACE, 1), concurrency=1, ramp_s=0, seconds=0.9
    )
    assert len([one for one in closed.outcomes if one.done_s - one.due_s > 0.05]) == 1


def test_a_request_that_the_generator_sends_late_counts_from_when_it_was_due() -> None:
    """One user, whose second visit is due while the first is under way."""
    recording = open_loop(SleepingServer(0.1), WarmTraffic(SPACE, 1, 1), np.array([0.0, 0.01, 0.02]))
    taken = [one.done_s - one.due_s for one in recording.outcomes]
    assert taken == pytest.approx([0.1, 0.19, 0.28], abs=0.06)


def test_arrivals_are_poisson_and_reproducible() -> None:
    due_S = poisson_schedule(50, 200, seed=4)
    gaps = np.diff(due_S)
    assert len(due_S) == pytest.approx(10_000, rel=0.05)
    assert 0 <= due_S[0] < due_S[-1] < 200
    assert gaps.mean() == pytest.approx(0.02, rel=0.05)
    # An exponential's standard deviation is its mean, and e^-1 of it lies beyond the mean.
    assert gaps.std() == pytest.approx(0.02, rel=0.05)
    assert (gaps > 0.02).mean() == pytest.approx(np.exp(-1), abs=0.02)
    assert poisson_schedule(50, 200, seed=4).tolist() == due_S.tolist()
    assert poisson_schedule(50, 200, seed=5).tolist() != due_S.tolist()


def test_samples_are_the_first_answers_and_then_every_tenth() -> None:
    recording = open_loop(SleepingServer(0), ColdTraffic(SPACE, 1), np.zeros(40))
    assert len(recording.samples) == 10 + 3
