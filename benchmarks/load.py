"""Load generators: so many requests in flight at all times, or arrivals on a schedule of their own."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from benchmarks.caller import OK, Answer, Reply
from benchmarks.workload import ReturningTraffic, Traffic, Visit

LONGEST_RAMP_S = 30.0
POLL_S = 0.01
ERROR_PAUSE_S = 0.05
"""A worker waits this long after an error, so that refusals do not become a storm."""

REPLIES_PER_WORKER = 2
"""A window goes on until so many replies have come for each worker: they come in batches, of which a short
window would hold a part."""

LONGEST_WINDOW_S = 30.0

SAMPLED_FIRST, SAMPLED_EVERY = 10, 10
"""Answers that are kept for comparison: the first ones, and then every tenth."""


class FillError(RuntimeError):
    """A cache could not be filled."""


class Caller(Protocol):
    """What a load generator needs of a client."""

    def prepare(self, visit: Visit) -> Any:
        """The request, ready to be sent."""

    def call(self, prepared: Any) -> Reply:
        """Send, and wait for the reply; within a time limit of the caller's own."""

    def start(self, prepared: Any, done: Callable[[Reply], None]) -> None:
        """Send; `done` gets the reply on another thread, within a time limit of the caller's own."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One request, in seconds of `time.perf_counter`."""

    due_s: float
    """When it was sent, or by the schedule should have been: what it waited for is part of its latency."""
    done_s: float
    status: str
    kv_source: str


@dataclass(frozen=True, slots=True)
class Sample:
    """An answer to be compared with offline PyTorch."""

    visit: Visit
    answer: Answer


@dataclass(slots=True)
class Recording:
    """Everything that one run of a load generator saw."""

    outcomes: list[Outcome] = field(default_factory=list)
    """Requests before, in and after the window, in order of their replies."""
    samples: list[Sample] = field(default_factory=list)
    begin_s: float = 0.0
    """The measured window begins here ..."""
    end_s: float = 0.0
    """... and ends here."""
    client_cpu_s: float = 0.0
    """Processor seconds of the load generator's own process in the window."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, visit: Visit, due_s: float, done_s: float, reply: Reply) -> None:
        """Note a reply; thread-safe."""
        outcome = Outcome(due_s, done_s, reply.status, reply.kv_source)
        with self._lock:
            place = len(self.outcomes)
            self.outcomes.append(outcome)
        if reply.status == OK and (place < SAMPLED_FIRST or place % SAMPLED_EVERY == 0):
            sample = Sample(visit, reply.answer())
            with self._lock:
                self.samples.append(sample)

    @contextmanager
    def window(self) -> Iterator[None]:
        """What is done in it is measured."""
        used = time.process_time()
        self.begin_s = time.perf_counter()
        yield
        self.end_s = time.perf_counter()
        self.client_cpu_s = time.process_time() - used


def closed_loop(
    caller: Caller,
    traffic: Traffic,
    *,
    concurrency: int,
    ramp_s: float,
    seconds: float,
    least_replies: int = 1,
) -> Recording:
    """`concurrency` workers, each with one request in flight.

    The window opens `ramp_s` after as many replies as there are workers. It takes `seconds`, or a multiple
    of it until `least_replies` and `REPLIES_PER_WORKER` have come. Requests under way at its end are awaited
    and not counted, so that the load is the same throughout.
    """
    recording, stopped = Recording(), threading.Event()

    def work() -> None:
        while not stopped.is_set():
            visit = traffic.take()
            prepared = caller.prepare(visit)
            due_s = time.perf_counter()
            reply = caller.call(prepared)
            recording.add(visit, due_s, time.perf_counter(), reply)
            traffic.give_back(visit)
            if reply.status != OK:
                stopped.wait(ERROR_PAUSE_S)

    with ThreadPoolExecutor(concurrency, thread_name_prefix="load") as pool:
        replies = max(least_replies, REPLIES_PER_WORKER * concurrency)
        try:
            workers = [pool.submit(work) for _ in range(concurrency)]
            _wait(recording, POLL_S, concurrency, LONGEST_RAMP_S)
            time.sleep(ramp_s)
            with recording.window():
                _wait(recording, seconds, replies, LONGEST_WINDOW_S)
        finally:
            stopped.set()
    for worker in workers:
        worker.result()
    return recording


def _wait(recording: Recording, seconds: float, replies: int, longest_s: float) -> None:
    """For so long, again and again until so many more replies have come, or until `longest_s` are over.

    A wait that ended with a reply would cut a burst of them in two, and count too many or too few.
    """
    began, before = time.perf_counter(), len(recording.outcomes)
    time.sleep(seconds)
    while len(recording.outcomes) < before + replies and time.perf_counter() < began + longest_s:
        time.sleep(seconds)


def open_loop(caller: Caller, traffic: Traffic, due_S: NDArray[np.float64]) -> Recording:
    """Requests at the times `due_S`, in seconds from the start, whether or not others are answered by then.

    Latency counts from when a request was due, so one that had to wait for a stalled server, for this
    generator or for its user's last visit to end is slow, and not left out.
    """
    recording, flying = Recording(), threading.Semaphore(0)

    def receive(visit: Visit, due_s: float) -> Callable[[Reply], None]:
        def done(reply: Reply) -> None:
            try:
                recording.add(visit, due_s, time.perf_counter(), reply)
                traffic.give_back(visit)
            finally:
                flying.release()

        return done

    with recording.window():
        began = time.perf_counter()
        for due in due_S.tolist():
            visit = traffic.take()
            prepared = caller.prepare(visit)
            time.sleep(max(began + due - time.perf_counter(), 0.0))
            caller.start(prepared, receive(visit, began + due))
    for _ in due_S:
        flying.acquire()
    return recording


def poisson_schedule(rate: float, seconds: float, seed: int) -> NDArray[np.float64]:
    """Arrival times in 0 to `seconds` with exponential gaps, `rate` of them a second on average."""
    draw = np.random.default_rng(seed)
    gaps = draw.exponential(1 / rate, size=int(rate * seconds + 10 * (rate * seconds) ** 0.5 + 20))
    due_S = gaps.cumsum()
    return due_S[due_S < seconds]


def fill(caller: Caller, traffic: ReturningTraffic, concurrency: int) -> None:
    """The traffic's first pass, which is not measured.

    Raises:
        FillError: a request failed, so that the cache does not hold what is measured next.
    """
    with ThreadPoolExecutor(concurrency, thread_name_prefix="fill") as pool:
        for reply in pool.map(lambda visit: caller.call(caller.prepare(visit)), traffic.first_pass()):
            if reply.status != OK:
                raise FillError(f"a request that was to fill the cache was answered with {reply.status}")
