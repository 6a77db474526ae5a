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
from loadtest.sender import Reply, Sender
from loadtest.traffic import AnyTraffic, Visit

ERROR_PAUSE_S = 0.05
"""A user waits this long after an error, so that refusals do not become a storm."""

Record = Callable[[Outcome, Visit, Reply], None]


class Clock:
    """Elapsed seconds that never jump, and the unix time of each."""

    def __init__(self) -> None:
        self._began_unix_s = time.time()
        self._began_s = time.perf_counter()

    def elapsed_s(self) -> float:
        """Return the seconds since it was made."""
        return time.perf_counter() - self._began_s

    def unix_s(self, elapsed_s: float) -> float:
        """Return the unix time of a moment that was or will be."""
        return self._began_unix_s + elapsed_s


class Requests:
    """Sends the visits of a traffic, one after another or at once, and records what becomes of them."""

    def __init__(self, sender: Sender, traffic: AnyTraffic, record: Record) -> None:
        self.traffic = traffic
        self.clock = Clock()
        self._sender = sender
        self._record = record

    def send(self, visit: Visit) -> None:
        """Send a visit that is due at once, and pause if it failed."""
        prepared = self._sender.prepare(visit)
        if self._send(visit, prepared, self.clock.elapsed_s()).status != OK:
            gevent.sleep(ERROR_PAUSE_S)

    def send_at(self, due_S: NDArray[np.float64]) -> None:
        """Send visits at the times `due_S` of the clock, whether or not others are answered by then.

        Latency counts from when a request was due: one that had to wait for a stalled server, for its user to
        return or for this generator is slow, and not left out. Returns when all are answered or have failed.
        """
        flying = Group()
        for due_s in due_S.tolist():
            visit = self.traffic.next()
            prepared = self._sender.prepare(visit)
            gevent.sleep(max(due_s - self.clock.elapsed_s(), 0.0))
            flying.spawn(self._send, visit, prepared, due_s)
        flying.join(raise_error=True)

    def send_all(self, next_visit: Callable[[], Visit | None], users: int) -> None:
        """Send visits by `users` at once, each with one request in flight, until `next_visit` has none."""

        def use() -> None:
            while (visit := next_visit()) is not None:
                self.send(visit)

        workers = Group()
        for _ in range(users):
            workers.spawn(use)
        workers.join(raise_error=True)

    def _send(self, visit: Visit, prepared: list[object], due_s: float) -> Reply:
        reply = self._sender.send(prepared)
        latency_ms = 1e3 * (self.clock.elapsed_s() - due_s)
        self.traffic.done(visit)
        due = self.clock.unix_s(due_s)
        self._record(Outcome(due, latency_ms, visit.kind.value, reply.status, reply.kv_source), visit, reply)
        return reply
