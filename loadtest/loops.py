"""Load generators: so many users who wait for their answers, or requests on a schedule of their own.

Shapes: S arrivals.
"""

import time
from collections.abc import Callable

import gevent
import numpy as np
from gevent.pool import Group
from numpy.typing import NDArray

from loadtest.outcomes import OK, Outcome
from loadtest.sender import Sender
from loadtest.traffic import Traffic

ERROR_PAUSE_S = 0.05
"""A user waits this long after an error, so that refusals do not become a storm."""

Record = Callable[[Outcome], None]


class Clock:
    """Elapsed seconds that never jump, and the unix time of each."""

    def __init__(self) -> None:
        self._began_unix_s = time.time()
        self._began_s = time.perf_counter()

    def elapsed_s(self) -> float:
        """Since it was made."""
        return time.perf_counter() - self._began_s

    def unix_s(self, elapsed_s: float) -> float:
        """Of a moment that was or will be."""
        return self._began_unix_s + elapsed_s


def open_loop(sender: Sender, traffic: Traffic, due_S: NDArray[np.float64], record: Record) -> None:
    """Requests at the times `due_S` from now on, whether or not others are answered by then.

    Latency counts from when a request was due: one that had to wait for a stalled server or for this
    generator is slow, and not left out. Returns when all are answered or have failed.
    """
    clock, flying = Clock(), Group()

    def fly(prepared: list[object], kind: str, due_s: float) -> None:
        reply = sender.send(prepared)
        latency_ms = 1e3 * (clock.elapsed_s() - due_s)
        record(Outcome(clock.unix_s(due_s), latency_ms, kind, reply.status, reply.kv_source))

    for due_s in due_S.tolist():
        visit = traffic.next()
        prepared = sender.prepare(visit)
        gevent.sleep(max(due_s - clock.elapsed_s(), 0.0))
        flying.spawn(fly, prepared, visit.kind.value, due_s)
    flying.join(raise_error=True)


def visit_once(sender: Sender, traffic: Traffic, clock: Clock, record: Record) -> None:
    """One request of one user, and a pause if it failed."""
    visit = traffic.next()
    prepared = sender.prepare(visit)
    sent_s = clock.elapsed_s()
    reply = sender.send(prepared)
    latency_ms = 1e3 * (clock.elapsed_s() - sent_s)
    record(Outcome(clock.unix_s(sent_s), latency_ms, visit.kind.value, reply.status, reply.kv_source))
    if reply.status != OK:
        gevent.sleep(ERROR_PAUSE_S)


def closed_loop(sender: Sender, traffic: Traffic, users: int, seconds: float, record: Record) -> None:
    """`users` at once, each with one request in flight, until `seconds` are over and all are answered."""
    clock = Clock()

    def use() -> None:
        while clock.elapsed_s() < seconds:
            visit_once(sender, traffic, clock, record)

    workers = Group()
    for _ in range(users):
        workers.spawn(use)
    workers.join(raise_error=True)
