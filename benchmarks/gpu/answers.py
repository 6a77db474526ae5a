"""Random requests through the server, and every answer beside float32 PyTorch on the same GPU.

Shapes: K results, A actions.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch
import tritonclient.grpc as triton
from numpy.typing import NDArray

from benchmarks.caller import OK, GrpcCaller, Reply
from benchmarks.correctness import Expected, compare
from benchmarks.gpu.random_requests import RandomRequestMaker, RandomTraffic
from benchmarks.gpu.report import Answers
from benchmarks.load import Caller, Sample
from benchmarks.random_bundle import RandomBundle
from benchmarks.report import Correctness
from benchmarks.workload import EventSpace, Visit
from unipinrec.data.history import rows_of
from unipinrec.models.unified.offline import OfflineRecommender, OfflineRequest

CONCURRENCY = 32
USERS = 400
"""Several times the slots: some come back to their slot, some to a slot that others have taken since."""

CHUNK = 2048
"""Requests that are sent while the answers of those before are compared."""

COMPARED_TOGETHER = 8
TOLERANCE = 0.1
"""Allowed difference of a probability, and of a score, which adds probabilities with weights of 1, 2 and 3.

With these weights, bfloat16 moved probabilities of the paper's model by up to 0.014 and scores by up to
0.043 against float32, at 200 and at 992 positions on a CPU; another user's history moved scores of the same
candidates by 0.3. A slot of another user, or one half filled, is thus found. One that lacks a few of a
thousand events is not: the tests compare those in float32."""

MOST_TOLD = 100


@dataclass(slots=True)
class Tally:
    """What was seen so far."""

    answered: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)
    largest: float = 0.0
    total: float = 0.0
    wrong: list[str] = field(default_factory=list)


class AnswerCheck:
    """Compares answers of one bundle with the padded pass of training, in float32, which knows no slots."""

    def __init__(
        self, made: RandomBundle, maker: RandomRequestMaker, tolerance: float, device: torch.device
    ) -> None:
        self._made = made
        self._maker = maker
        self._tolerance = tolerance
        self._offline = OfflineRecommender(made.load_model().to(device))
        self._utility_A = np.array(made.manifest.defaults.utility_weights, np.float32)

    def __call__(self, samples: Sequence[Sample], tally: Tally) -> None:
        """Add what is found to the tally."""
        # Alike in length, so that little of a batch is padding.
        ordered = sorted(samples, key=lambda sample: len(sample.visit.history))
        for first in range(0, len(ordered), COMPARED_TOGETHER):
            some = ordered[first : first + COMPARED_TOGETHER]
            for sample, probability_KA in zip(some, self._probabilities(some), strict=True):
                self._compare(sample, probability_KA, tally)

    def _probabilities(self, samples: Sequence[Sample]) -> list[NDArray[np.float32]]:
        requests = [
            OfflineRequest(history=one.visit.history, request_time=one.visit.request_time) for one in samples
        ]
        rows = [rows_of(self._made.item_ids, one.answer.item_id_K) for one in samples]
        return [one.cpu().numpy() for one in self._offline.action_probabilities(requests, rows)]

    def _compare(self, sample: Sample, probability_KA: NDArray[np.float32], tally: Tally) -> None:
        expected = Expected(
            probability_KA,
            self._utility_A,
            self._made.item_ids[sample.visit.history.item_row_N],
            self._maker.results_of(sample.visit),
            self._made.manifest.bundle_id,
        )
        found = compare(sample, expected, self._tolerance)
        tally.answered += 1
        tally.largest = max(tally.largest, found.difference)
        tally.total += found.difference
        tally.wrong += [f"user {sample.visit.user_id}: {what}" for what in found.wrong]


def check_answers(
    caller: Caller,
    traffic: RandomTraffic,
    check: AnswerCheck,
    requests: int,
    tell: Callable[[str], None],
    concurrency: int = CONCURRENCY,
) -> Tally:
    """Send so many requests, as many at once as `concurrency`, and compare every answer."""
    tally = Tally()

    def ask() -> tuple[Visit, Reply]:
        visit = traffic.take()
        reply = caller.call(caller.prepare(visit))
        traffic.give_back(visit)
        return visit, reply

    with ThreadPoolExecutor(concurrency, thread_name_prefix="ask") as pool:
        waiting: list[Future[tuple[Visit, Reply]]] = []
        for size in _chunks(requests):
            asked = [pool.submit(ask) for _ in range(size)]
            _settle(waiting, check, tally)
            tell(
                f"{tally.answered:,} of {requests:,} answers compared, largest difference {tally.largest:.3f}"
            )
            waiting = asked
        _settle(waiting, check, tally)
    return tally


def answers_of(tally: Tally, tolerance: float, settings: dict[str, object]) -> Answers:
    """The report of a tally."""
    return Answers(
        requests=tally.answered + sum(tally.failed.values()),
        concurrency=CONCURRENCY,
        failed=dict(tally.failed),
        kv_source=dict(tally.sources),
        mean_difference=tally.total / max(tally.answered, 1),
        correctness=Correctness(
            tolerance=tolerance,
            checked={"unified": tally.answered},
            largest_difference=tally.largest,
            same_items={},
            differences=_told(tally.wrong),
        ),
        settings=settings,
    )


def random_caller(
    made: RandomBundle, client: triton.InferenceServerClient, model: str, timeout_s: float
) -> tuple[GrpcCaller, RandomRequestMaker]:
    """What sends random requests to an ensemble, and what made them."""
    maker = RandomRequestMaker(made.item_ids, made.num_results)
    return GrpcCaller(client, model, maker, timeout_s), maker


def random_traffic(made: RandomBundle, seed: int) -> RandomTraffic:
    """Of a bundle's items and actions."""
    return RandomTraffic(EventSpace.of(made.manifest), seed, USERS)


def _settle(waiting: Sequence[Future[tuple[Visit, Reply]]], check: AnswerCheck, tally: Tally) -> None:
    samples = []
    for one in waiting:
        visit, reply = one.result()
        if reply.status != OK:
            tally.failed[reply.status] += 1
            continue
        tally.sources[reply.kv_source] += 1
        samples.append(Sample(visit, reply.answer()))
    check(samples, tally)


def _chunks(requests: int) -> Iterator[int]:
    while requests > 0:
        yield min(CHUNK, requests)
        requests -= CHUNK


def _told(wrong: Sequence[str]) -> tuple[str, ...]:
    if len(wrong) <= MOST_TOLD:
        return tuple(wrong)
    return (*wrong[:MOST_TOLD], f"and {len(wrong) - MOST_TOLD} more")
