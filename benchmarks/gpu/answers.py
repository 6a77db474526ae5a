"""Random requests through the server, and every answer beside float32 PyTorch on the same GPU.

Shapes: K results, A actions.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count, islice
from typing import Any

import numpy as np
import torch
from tritonclient.utils import InferenceServerException
from unipinrec_client.errors import translate

from benchmarks.caller import answer_of
from benchmarks.correctness import Comparison, Expected, compare
from benchmarks.gpu.inputs import random_history
from benchmarks.load import Sample
from benchmarks.random_bundle import RandomBundle
from benchmarks.workload import Visit
from ensemble.graph import Tensors
from loadtest.traffic import ASKED_AFTER_S, MOST_APPENDED
from unipinrec.data.history import History, rows_of
from unipinrec.models.unified.offline import OfflineRecommender, OfflineRequest

CONCURRENCY = 32
USERS = 400
"""Several times the slots: some come back to their slot, some to a slot that others have taken since."""

NEW_SHARE = 0.3
"""Share of the visits of users who are new, and take the place of another."""

MOST_GROWN = 128
"""Events beyond the model's window that a user has at most."""

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
Asked = tuple[Visit, int]
"""A visit, and the number of results that it asks for."""


def random_visits(made: RandomBundle, seed: int) -> Iterator[Asked]:
    """Yield visits without end: histories of any length, from users who come back with a few more events."""
    config, draw = made.manifest.model, np.random.default_rng(seed)
    users: dict[int, tuple[str, History, int]] = {}
    for number in count():
        place = int(draw.integers(USERS))
        if place not in users or draw.random() < NEW_SHARE:
            events = random_history(config, draw, config.max_history + MOST_GROWN)
            # More short histories than long ones, as among users.
            users[place] = f"random-{number}", events, 1 + int(config.max_history * draw.random() ** 2)
        user_id, events, length = users[place]
        users[place] = user_id, events, length + int(draw.integers(1, MOST_APPENDED + 1))
        history = events[:length]
        visit = Visit(place, user_id, history, int(history.timestamp_N[-1]) + ASKED_AFTER_S)
        yield visit, 1 + int(made.num_results * draw.random() ** 3)


class AnswerCheck:
    """Compares answers of one bundle with the padded pass of training, in float32, which knows no slots."""

    def __init__(self, made: RandomBundle, device: torch.device) -> None:
        self._made = made
        self._offline = OfflineRecommender(made.load_model().to(device))
        self._utility_A = np.array(made.manifest.defaults.utility_weights, np.float32)

    def __call__(self, answered: Sequence[tuple[Asked, Tensors]]) -> list[Comparison]:
        """Return how each of the server's outputs differs, shorter histories first."""
        # Alike in length, so that little of a batch is padding.
        ordered = sorted(answered, key=lambda pair: len(pair[0][0].history))
        chunks = [
            ordered[first : first + COMPARED_TOGETHER] for first in range(0, len(ordered), COMPARED_TOGETHER)
        ]
        return [comparison for chunk in chunks for comparison in self._compare(chunk)]

    def _compare(self, answered: Sequence[tuple[Asked, Tensors]]) -> Iterator[Comparison]:
        ids, bundle_id = self._made.item_ids, self._made.manifest.bundle_id
        answers = [answer_of(outputs) for _, outputs in answered]
        requests = [
            OfflineRequest(history=visit.history, request_time=visit.request_time)
            for (visit, _), _ in answered
        ]
        rows = [rows_of(ids, answer.item_id_K) for answer in answers]
        right = self._offline.action_probabilities(requests, rows)
        for ((visit, wanted), _), answer, probability_KA in zip(answered, answers, right, strict=True):
            seen_N = ids[visit.history.item_row_N]
            expected = Expected(probability_KA.cpu().numpy(), self._utility_A, seen_N, wanted, bundle_id)
            yield compare(Sample(visit, answer), expected, TOLERANCE)


def check_answers(
    send: Callable[[Asked], Tensors],
    asked: Iterator[Asked],
    check: Callable[[Sequence[tuple[Asked, Tensors]]], list[Comparison]],
    requests: int,
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """Send so many requests, `CONCURRENCY` at once, and compare every answer.

    Returns their number, those that `failed` by status, the answers by `kv_source`, their largest and mean
    difference, and `differences` beyond `TOLERANCE` in words: one is enough to fail the run.
    """
    failed: Counter[str] = Counter()
    sources: Counter[str] = Counter()
    found: list[Comparison] = []

    def settle(flying: Sequence[tuple[Asked, Future[Tensors]]]) -> None:
        answered = []
        for request, reply in flying:
            try:
                answered.append((request, reply.result()))
            except InferenceServerException as error:
                failed[translate(error).status or "UNKNOWN"] += 1
        sources.update(outputs["KV_SOURCE"][0, 0].decode() for _, outputs in answered)
        found.extend(check(answered))
        tell(f"{len(found):,} of {requests:,} answers compared")

    with ThreadPoolExecutor(CONCURRENCY) as senders:
        before: list[tuple[Asked, Future[Tensors]]] = []
        for first in range(0, requests, CHUNK):
            some = islice(asked, min(CHUNK, requests - first))
            flying = [(request, senders.submit(send, request)) for request in some]
            settle(before)
            before = flying
        settle(before)
    wrong = [what for comparison in found for what in comparison.wrong]
    differences = [comparison.difference for comparison in found]
    return {
        "requests": requests,
        "concurrency": CONCURRENCY,
        "tolerance": TOLERANCE,
        "failed": dict(failed),
        "kv_source": dict(sources),
        "largest_difference": max(differences, default=0.0),
        "mean_difference": sum(differences) / max(len(differences), 1),
        "different": sum(bool(comparison.wrong) for comparison in found),
        "differences": wrong[:MOST_TOLD],
    }
