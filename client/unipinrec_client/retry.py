"""When a request is sent again."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from tenacity import (
    AsyncRetrying,
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
    stop_any,
    stop_before_delay,
    wait_exponential_jitter,
)

from unipinrec_client.errors import UnavailableError

T = TypeVar("T")

_SHORTEST_ATTEMPT_S = 0.001


@dataclass(frozen=True, kw_only=True, slots=True)
class RetryPolicy:
    """How often, and after what waits, a request is sent again after `UnavailableError`.

    Only `UnavailableError` is retried. No retry starts after the client's timeout, and an attempt never gets
    more than what is left of it.
    """

    attempts: int = 3
    """Times a request is sent at most, the first included. 1 turns retries off. More attempts ride out
    longer outages and put more load on a server that is already refusing some."""
    initial_wait_s: float = 0.05
    """Seconds before the second attempt; doubled before each further one. Up to as much again is added at
    random, so that clients refused together do not come back together."""
    max_wait_s: float = 1.0
    """Seconds between two attempts at most."""

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"attempts is {self.attempts}; allowed: 1 and more")
        if not 0 <= self.initial_wait_s <= self.max_wait_s:
            raise ValueError(f"initial_wait_s is {self.initial_wait_s}; allowed: 0 to {self.max_wait_s}")

    def call(self, attempt: Callable[[float], T], timeout_s: float) -> T:
        """Return `attempt(seconds left)`, called again while it raises `UnavailableError`. Raises what the
        last attempt raised."""
        deadline = time.monotonic() + timeout_s
        retrying = Retrying(**self._options(timeout_s))
        return retrying(lambda: attempt(_seconds_until(deadline)))

    async def call_async(self, attempt: Callable[[float], Awaitable[T]], timeout_s: float) -> T:
        """Do as `call` does, for a coroutine function."""
        deadline = time.monotonic() + timeout_s

        async def next_attempt() -> T:
            return await attempt(_seconds_until(deadline))

        return await AsyncRetrying(**self._options(timeout_s))(next_attempt)

    def _options(self, timeout_s: float) -> dict[str, Any]:
        return {
            "retry": retry_if_exception_type(UnavailableError),
            "stop": stop_any(stop_after_attempt(self.attempts), stop_before_delay(timeout_s)),
            "wait": wait_exponential_jitter(
                multiplier=self.initial_wait_s, max=self.max_wait_s, jitter=self.initial_wait_s
            ),
            "reraise": True,
        }


def _seconds_until(deadline: float) -> float:
    return max(deadline - time.monotonic(), _SHORTEST_ATTEMPT_S)
