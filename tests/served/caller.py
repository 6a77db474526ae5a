"""Callers that ask a server on and on, from several threads, while a test does something to it."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from unipinrec_client import GrpcClient, RecommendError, RecommendRequest, RecommendResponse, RetryPolicy

ONCE = RetryPolicy(attempts=1)


@dataclass(slots=True)
class Seen:
    """What callers have been answered so far."""

    answers: list[tuple[float, float, RecommendResponse]] = field(default_factory=list)
    """Each with the `time.monotonic()` when it was asked for and when it came."""
    failures: list[str] = field(default_factory=list)

    def since(self, then: float) -> list[RecommendResponse]:
        """Return the answers to what was asked after a time."""
        return [response for asked, _, response in self.answers if asked > then]

    def first(self, timeout_s: float) -> RecommendResponse:
        """Return the first answer."""
        self.until(lambda _: True, timeout_s)
        return self.answers[0][2]

    def until(self, wanted: Callable[[RecommendResponse], bool], timeout_s: float) -> float:
        """Return how many seconds from now it takes until an answer is as `wanted`."""
        began = time.monotonic()
        while time.monotonic() - began < timeout_s:
            found = [at for _, at, response in self.answers[:] if at > began and wanted(response)]
            if found:
                return min(found) - began
            time.sleep(0.01)
        raise AssertionError(f"no such answer in {timeout_s} s, but {self.answers[-1:]}")


@contextmanager
def asking(
    url: str, requests: list[RecommendRequest], threads: int = 4, timeout_s: float = 10.0
) -> Iterator[Seen]:
    """Ask for the requests in turn while the block runs, with so many in flight and without retries."""
    seen, stopped = Seen(), threading.Event()

    def ask(first: int) -> None:
        with GrpcClient(url, retry=ONCE, timeout_s=timeout_s) as client:
            place = first
            while not stopped.is_set():
                asked = time.monotonic()
                try:
                    answer = client.recommend(requests[place % len(requests)])
                    seen.answers.append((asked, time.monotonic(), answer))
                except RecommendError as error:
                    seen.failures.append(str(error))
                place += threads

    workers = [threading.Thread(target=ask, args=(first,)) for first in range(threads)]
    for worker in workers:
        worker.start()
    try:
        yield seen
    finally:
        stopped.set()
        for worker in workers:
            worker.join()
