"""When a request is sent again."""

import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from tenacity import (
    AsyncRetrying,
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
    stop_any,
    stop_before_delay,
    wait_random_exponential,
)

from unipinrec_client.errors import UnavailableError

T = TypeVar("T")

_SHORTEST_ATTEMPT_S = 0.001


class RetryBudget:
    """The retries that one client has left: a bucket that each retry takes one from, and each answer puts a
    share of one into. It belongs to all threads of the client."""

    def __init__(self, most: float, ratio: float) -> None:
        self._most = self._left = most
        self._ratio = ratio
        self._lock = threading.Lock()

    def take(self) -> bool:
        """Take one retry; return whether there was one."""
        with self._lock:
            if self._left < 1:
                return False
            self._left -= 1
            return True

    def put(self) -> None:
        """Put in the share of one answer."""
        with self._lock:
            self._left = min(self._left + self._ratio, self._most)


@dataclass(frozen=True, kw_only=True, slots=True)
class RetryPolicy:
    """How often, and after what waits, a request is sent again after `UnavailableError`.

    Only `UnavailableError` is retried. No retry starts after the client's timeout, and an attempt never gets
    more than what is left of it.
    """

    attempts: int = 3
    """Times a request is sent at most, the first included. 1 turns retries off. More attempts ride out
    longer outages and put more load on a server that is already refusing some."""
    initial_wait_s: float = 0.1
    """Seconds before the second attempt at most; doubled before each further one. The wait is drawn between 0
    and that, so that clients refused together do not come back together, and starts when the server says that
    it expects to have room."""
    max_wait_s: float = 1.0
    """Bound of the drawn wait in seconds."""
    budget: float = 10.0
    """Retries that a client has in stock, for all its calls together; `math.inf` for as many as `attempts`
    allow. When they are used up, it retries no more than `budget_ratio` of what is answered, so that clients
    do not multiply the load on a server that refuses it."""
    budget_ratio: float = 0.1
    """Retries that each answered request adds to the stock."""

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"attempts is {self.attempts}; allowed: 1 and more")
        if not 0 <= self.initial_wait_s <= self.max_wait_s:
            raise ValueError(f"initial_wait_s is {self.initial_wait_s}; allowed: 0 to {self.max_wait_s}")
        if not self.budget >= 0:
            raise ValueError(f"budget is {self.budget}; allowed: 0 and more")
        if not 0 <= self.budget_ratio <= 1:
            raise ValueError(f"budget_ratio is {self.budget_ratio}; allowed: 0 to 1")

    def new_budget(self) -> RetryBudget:
        """Return the stock of a client that has retried nothing yet."""
        return RetryBudget(self.budget, self.budget_ratio)

    def call(self, attempt: Callable[[float], T], timeout_s: float, budget: RetryBudget | None = None) -> T:
        """Return `attempt(seconds left)`, called again while it raises `UnavailableError` and the budget has
        retries; a new one if there is none. Raises what the last attempt raised."""
        deadline, stock = time.monotonic() + timeout_s, budget or self.new_budget()
        answer = Retrying(**self._options(timeout_s, stock))(lambda: attempt(_seconds_until(deadline)))
        stock.put()
        return answer

    async def call_async(
        self, attempt: Callable[[float], Awaitable[T]], timeout_s: float, budget: RetryBudget | None = None
    ) -> T:
        """Do as `call` does, for a coroutine function."""
        deadline, stock = time.monotonic() + timeout_s, budget or self.new_budget()

        async def next_attempt() -> T:
            return await attempt(_seconds_until(deadline))

        answer: T = await AsyncRetrying(**self._options(timeout_s, stock))(next_attempt)
        stock.put()
        return answer

    def _options(self, timeout_s: float, budget: RetryBudget) -> dict[str, Any]:
        drawn = wait_random_exponential(multiplier=self.initial_wait_s, max=self.max_wait_s)
        bounds = stop_any(stop_after_attempt(self.attempts), stop_before_delay(timeout_s))
        return {
            "retry": retry_if_exception_type(UnavailableError),
            # The budget is asked last, and so for retries alone that will be sent.
            "stop": lambda state: bounds(state) or not budget.take(),
            "wait": lambda state: _told_wait_s(state) + drawn(state),
            "reraise": True,
        }


def _told_wait_s(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    return error.retry_after_s if isinstance(error, UnavailableError) else 0.0


def _seconds_until(deadline: float) -> float:
    return max(deadline - time.monotonic(), _SHORTEST_ATTEMPT_S)
