"""A running server that is asked, and what it answers or why it does not."""

import re
import time
from collections import defaultdict
from dataclasses import dataclass

from unipinrec_client import (
    DeadlineExceededError,
    GrpcClient,
    RecommendError,
    RecommendRequest,
    RecommendResponse,
    UnavailableError,
)

from loadtest.watch import COUNT, Counters, NodeTime, ServerWatch, node_times

ALWAYS = ("history", "retrieval", "ann", "ranking", "scoring")
"""Stages of every request."""
STAGES = (*ALWAYS[:-1], "l2", "scoring")
"""In the order in which a request passes them; `l2` where it is ranked twice."""

COUNTED_WITHIN_S, LOOK_S = 0.3, 0.02
"""A request is counted a moment after its answer."""

STANDBY = re.compile(r"-\d+$")
"""What ends the names of the second set of nodes, which serves after a rollout."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a server answered."""

    response: RecommendResponse
    total_ms: float
    """From the call to the answer, as the page saw it."""
    stages: dict[str, NodeTime]
    """Time at each stage, a mean over `counted` requests; empty without a metrics endpoint."""
    counted: int
    """Requests that the server answered meanwhile: this one, canaries and other callers'."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why there is no answer, in one sentence."""

    sentence: str


class Server:
    """One server, by its gRPC address and, for the time of its stages, Triton's metrics."""

    def __init__(
        self,
        url: str,
        *,
        metrics_url: str | None = None,
        model: str = "recommend",
        timeout_s: float = 5.0,
    ) -> None:
        """Raises `ValueError` if `url` is no address or `timeout_s` out of range."""
        self.url = url
        self.metrics_url = metrics_url
        self._client = GrpcClient(url, model=model, timeout_s=timeout_s)
        self._watch = ServerWatch({}, metrics_url)

    def ask(self, request: RecommendRequest) -> Answer | Refusal:
        """Return the answer to a request, or why there is none."""
        before = _by_stage(self._watch.counters())
        began = time.perf_counter()
        try:
            response = self._client.recommend(request)
        except (RecommendError, ValueError) as error:
            return Refusal(self._told(error))
        total_ms = 1e3 * (time.perf_counter() - began)
        after = self._counted_since(before)
        times = node_times(before, after)
        return Answer(
            response=response,
            total_ms=total_ms,
            stages={stage: times[stage] for stage in STAGES if stage in times},
            counted=int(_count(after, "scoring") - _count(before, "scoring")),
        )

    def _counted_since(self, before: Counters) -> Counters:
        """The counters, once every stage has counted another request, or as they are a little later."""
        until = time.monotonic() + COUNTED_WITHIN_S
        while True:
            found = _by_stage(self._watch.counters())
            grown = all(_count(found, stage) > _count(before, stage) for stage in ALWAYS)
            if self.metrics_url is None or grown or time.monotonic() > until:
                return found
            time.sleep(LOOK_S)

    def _told(self, error: Exception) -> str:
        if isinstance(error, DeadlineExceededError):
            return f"{self.url} did not answer within {self._client.timeout_s:g} s."
        if isinstance(error, UnavailableError) and not error.retry_after_s:
            return f"No server answers at {self.url}: start one by `make serve`, or give another --url."
        return f"{self.url} refused the request: {' '.join(str(error).split())}."


def _by_stage(counters: Counters) -> Counters:
    """Counters of both sets of nodes together."""
    found: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for name, by_model in counters.items():
        for model, value in by_model.items():
            found[name][STANDBY.sub("", model)] += value
    return found


def _count(counters: Counters, stage: str) -> float:
    return counters.get(COUNT, {}).get(stage, 0.0)
