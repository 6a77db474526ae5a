"""Which requests the edge lets in: those that can be answered before their callers stop waiting."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from prometheus_client.metrics_core import GaugeMetricFamily, Metric

from ensemble.nodes.contract import RefusedError
from ensemble.nodes.in_flight import Ended, Ending, InFlight, Ticket, now_us
from ensemble.settings import ServingSettings

SHARE = 0.6
"""Of its time, within which a request has to be expected to be answered. The rest is for the way here and
back, for what is not foreseen, and for those who come next."""
FEW = 8
"""Users who are always let in: with fewer under way the machine idles, and nothing is learned."""
CANARIES = 16
"""Users of canaries under way who are let in above all limits."""
SHORTEST_RETRY_S = 0.05
LONGEST_TIMEOUT_US = 365 * 24 * 3600 * 10**6
SETTLE_US = 5_000
"""Between two looks at what has ended."""
PAUSE_S, PAUSE_EVERY_US = 0.003, 6_000
"""What comes while the edge pauses is refused as one batch."""
WEIGHT = 0.05
"""Of one request in the averages."""


class Estimate:
    """How long answers take, learned from those given: a time that every request takes, and one more for each
    user of its own or ahead of it."""

    def __init__(self) -> None:
        self.lone_us = 0.0
        self.user_us: float | None = None
        """None until requests have had to wait for each other."""

    def learn(self, ended: Ended) -> None:
        """Note a request that has ended."""
        took_us, users, ahead = ended.took_us, ended.users, ended.ahead
        late = ended.ending is Ending.EXPIRED and took_us > self.expect_us(users, ahead)
        if not late and ended.ending is not Ending.ANSWERED:
            return
        waits = ahead + users
        if ahead <= FEW / 4:
            lone_us = took_us / (1 + waits / 2) if self.user_us is None else took_us - self.user_us * waits
            self.lone_us = _mean(self.lone_us or lone_us, max(lone_us, 0.0))
        elif ahead >= FEW:
            user_us = max(took_us - self.lone_us, 0.0) / waits
            self.user_us = user_us if self.user_us is None else _mean(self.user_us, user_us)

    def expect_us(self, users: int, ahead: int) -> float:
        """Return the microseconds after which a request that is let in now is answered."""
        # Together they are faster than alone: half of it is a cautious first guess.
        user_us = self.lone_us / 2 if self.user_us is None else self.user_us
        return self.lone_us + user_us * (ahead + users)


class Admission:
    """Counts requests in, and refuses those that would come too late.

    A request is refused when the requests ahead of it take more than a share of its time, by what the latest
    answers took. Refusing at once costs a tenth of an answer, and an answer that nobody waits for any more
    costs a whole one.
    """

    def __init__(self, runtime_dir: Path, *, deadline_ms: int, max_in_flight: int) -> None:
        """`deadline_ms` is for callers who tell no timeout; a `max_in_flight` of 0 lets everybody in."""
        self._deadline_us = 1000 * deadline_ms
        self._most = max_in_flight
        self._in_flight = InFlight(runtime_dir)
        self._estimate = Estimate()
        self._settled_us = self._paused_us = 0
        # Metrics are read by another thread.
        self._lock = threading.Lock()

    def collect(self) -> Iterator[Metric]:
        """Yield what Prometheus reads: who is under way, and what that means for who comes next."""
        with self._lock:
            self._settle(now_us())
            users = self._in_flight.users
        yield GaugeMetricFamily("unipinrec_in_flight_users", "Users whose requests are under way", users)
        text = "Time after which a request that comes now is expected to be answered"
        yield GaugeMetricFamily("unipinrec_expected_seconds", text, self._estimate.expect_us(1, users) / 1e6)

    @classmethod
    def of(cls, settings: ServingSettings) -> Self:
        """Return the admission that the settings ask for."""
        limits = {"deadline_ms": settings.deadline_ms, "max_in_flight": settings.max_in_flight}
        return cls(settings.runtime_dir, **limits)

    def admit(self, users: int, timeout_us: int, *, canary: bool = False) -> Ticket:
        """Let a request in; `timeout_us` is what its caller waits, 0 where it does not say. Raises
        `RefusedError`, which says when to come again. Pauses for milliseconds when it refuses."""
        at_us = now_us()
        timeout_us = min(timeout_us, LONGEST_TIMEOUT_US) or self._deadline_us
        if not self._most:
            return Ticket(at_us + timeout_us)
        with self._lock:
            self._settle(at_us)
            refusal = self._refusal(users, timeout_us, canary=canary)
            if refusal is None:
                return self._in_flight.open(users, at_us + timeout_us, at_us)
        if at_us - self._paused_us > PAUSE_EVERY_US:
            time.sleep(PAUSE_S)
            self._paused_us = now_us()
        raise refusal

    def _settle(self, at_us: int) -> None:
        if at_us - self._settled_us >= SETTLE_US:
            self._settled_us = at_us
            for ended in self._in_flight.settle(at_us):
                self._estimate.learn(ended)

    def _refusal(self, users: int, timeout_us: int, *, canary: bool) -> RefusedError | None:
        ahead = self._in_flight.users
        if ahead < FEW:
            return None
        most = self._most + (CANARIES if canary else 0)
        expected_us = self._estimate.expect_us(users, ahead)
        late_us = 0.0 if canary else expected_us - SHARE * timeout_us
        if late_us > 0 or ahead + users > most or self._in_flight.full:
            # What is beyond the limit has to be worked off, too.
            over_us = (ahead + users - most) * (self._estimate.user_us or 0.0)
            retry_s = max(late_us / 1e6, over_us / 1e6, SHORTEST_RETRY_S)
            return RefusedError(
                f"{ahead} users are ahead, and an answer is expected in {expected_us / 1e3:.0f} ms; allowed: "
                f"{most} users, {SHARE:.0%} of a timeout of {timeout_us / 1e3:.0f} ms; "
                f"retry after {retry_s:.2f} s"
            )
        return None


def _mean(before: float, found: float) -> float:
    return before + WEIGHT * (found - before)
