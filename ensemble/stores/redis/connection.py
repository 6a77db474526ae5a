"""A connection to Redis that no caller waits for longer than a bound, and that nobody has to mend."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import parse_qs, urlsplit

from redis import Redis
from redis.backoff import ExponentialBackoff, ExponentialWithJitterBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ConnectionError,
    ReadOnlyError,
    RedisError,
    TimeoutError,
)
from redis.retry import Retry

from ensemble.stores.history_store import StoreError, StoreUnavailableError

CONNECT_S = 0.5
"""Seconds for a connection to be made."""
RETRIES = 2
"""Of a command whose connection was refused or lost, and of making one. What takes too long is not sent
again: a caller would wait twice."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.25, 2.0
"""Seconds for which nothing is sent to a server that has not answered, the first time and at most."""

log = logging.getLogger(__name__)
# A command tells its user of an error once.
log.addHandler(logging.NullHandler())


class RedisConnection:
    """What a store sends to one server, from any thread. The first call connects.

    A server that was restarted is found again by the very call that notices. While it does not answer, one
    call in a while tries, and the others fail at once: they would wait one after the other.
    """

    def __init__(self, url: str, *, timeout_s: float) -> None:
        """An answer may take `timeout_s`. Raises `StoreError`, without what is secret in the URL, if it is
        none."""
        self.address = address_of(url)
        # A password may make the library's own message.
        try:
            self._redis = Redis.from_url(
                url,
                protocol=2,
                socket_connect_timeout=CONNECT_S,
                socket_timeout=timeout_s,
                retry=Retry(ExponentialWithJitterBackoff(0.2, 0.02), RETRIES, (ConnectionError,)),
            )
        except ValueError:
            raise StoreError(f"history store {self.address}: its URL cannot be read") from None
        self._pauses = ExponentialBackoff(LONGEST_PAUSE_S, FIRST_PAUSE_S / 2)
        self._lock = threading.Lock()
        self._failures = 0
        self._paused_until = 0.0
        self._reason = ""

    def ask(self, call: Callable[[Redis], Any]) -> Any:
        """Return what a call is answered. Raises `StoreUnavailableError` where the server does not answer in
        time, and `StoreError` if it refuses."""
        with self._lock:
            if time.monotonic() < self._paused_until:
                raise StoreUnavailableError(self._reason)
        try:
            answer = call(self._redis)
        except (AuthenticationError, AuthorizationError) as error:
            raise StoreError(f"history store {self.address}: {error}") from error
        except (ConnectionError, TimeoutError, ReadOnlyError) as error:
            raise StoreUnavailableError(self._note_failure(error)) from error
        except RedisError as error:
            raise StoreError(f"history store {self.address}: {error}") from error
        if self._failures:
            self._note_recovery()
        return answer

    def run(self, script: str, keys: Sequence[bytes], given: Sequence[bytes | int]) -> Any:
        """Return what a script answers, which need not be known to the server. Raises as `ask` does."""
        return self.ask(lambda redis: redis.register_script(script)(keys=keys, args=given))

    def close(self) -> None:
        """Close all connections."""
        self._redis.close()

    def _note_failure(self, error: RedisError) -> str:
        loads = isinstance(error, BusyLoadingError)
        reason = f"history store {self.address} {'loads its data' if loads else f'is away: {error}'}"
        with self._lock:
            self._failures += 1
            first, self._reason = self._failures == 1, reason
            self._paused_until = time.monotonic() + self._pauses.compute(self._failures)
        if first:
            log.warning("%s", reason)
        return reason

    def _note_recovery(self) -> None:
        with self._lock:
            recovered, self._failures = self._failures > 0, 0
        if recovered:
            log.warning("history store %s answers again", self.address)


def address_of(url: str) -> str:
    """Return the server and the database of a URL, without user, password and options."""
    parts = urlsplit(url)
    chosen = parse_qs(parts.query).get("db", [""])[0]
    if parts.scheme == "unix":
        return f"unix://{parts.path}" + (f"?db={chosen}" if chosen else "")
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{parts.scheme}://{host}:{parts.port or 6379}/{chosen or parts.path.strip('/') or 0}"
