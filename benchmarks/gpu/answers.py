"""Random requests through the server, and every answer beside float32 PyTorch on the same GPU.

Shapes: K results, A actions.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count, islice
from typing import Any

import numpy as np
import torch
from tritonclient.utils import InferenceServerException
from unipinrec_client.errors import translate

from benchmarks.gpu.inputs import random_history
from benchmarks.random_bundle import RandomBundle
from benchmarks.unified.correctness import compare
from ensemble.graph import Tensors
from loadtest.answers import Answer
from loadtest.histories import UserHistory
from loadtest.traffic import MOST_APPENDED
from unipinrec.data.history import History, rows_of
from unipinrec.models.unified.offline import OfflineRecommender

CONCURRENCY = 32
USERS, NEW_SHARE, MOST_GROWN = 400, 0.3, 128
"""Users known at a time, several times the slots: some come back to their slot, some to one that others have
taken since. A share of the visits is of one who is new, and nobody has more events beyond the window."""

CHUNK, COMPARED_TOGETHER = 2048, 8
"""Requests that are sent while the answers of those before are compared, and answers of one forward."""

TOLERANCE = 0.1
"""Allowed difference of a probability, and of a score, which adds probabilities with weights of 1, 2 and 3.

With these weights, bfloat16 moved probabilities of the paper's model by up to 0.014 and scores by up to
0.043 against float32, at 200 and at 992 positions on a CPU; another user's history moved scores of the same
candidates by 0.3. A slot of another user, or one half filled, is thus found. One that lacks a few of a
thousand events is not: the tests compare those in float32."""

MOST_TOLD = 100
Asked = tuple[UserHistory, int]
"""A history, and the number of results that are asked for."""

Answered = tuple[Asked, Tensors]
Check = Callable[[Sequence[Answered]], list[tuple[float, list[str]]]]
"""Tells for each answer the largest difference, and what is wrong."""


def random_requests(made: RandomBundle, seed: int) -> Iterator[Asked]:
    """Yield requests without end: histories of any length, of users who come back with a few more events."""
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
        some, item_id_N = events[:length], made.item_ids[events.item_row_N[:length]]
        sent = UserHistory(user_id, item_id_N, some.actions_N, some.timestamp_N, some.surface_N)
        yield sent, 1 + int(made.num_results * draw.random() ** 3)


def answer_check(made: RandomBundle, device: torch.device) -> Check:
    """Return what compares answers with the padded pass of training, in float32, which knows no slots."""
    offline = OfflineRecommender(made.load_model().to(device))

    def check(answered: Sequence[Answered]) -> list[tuple[float, list[str]]]:
        # Alike in length, so that little of a batch is padding.
        ordered = sorted(answered, key=lambda pair: len(pair[0][0]))
        found = []
        for first in range(0, len(ordered), COMPARED_TOGETHER):
            some = ordered[first : first + COMPARED_TOGETHER]
            requests = [made.offline_request(history) for (history, _), _ in some]
            answers = [Answer.of_outputs(outputs) for _, outputs in some]
            rows = [rows_of(made.item_ids, answer.item_id_K) for answer in answers]
            right = offline.action_probabilities(requests, rows)
            for ((history, wanted), _), answer, found_KA in zip(some, answers, right, strict=True):
                expected = made.expected(answer, found_KA.cpu().numpy())
                difference, wrong = compare(answer, expected, history.item_id_N, wanted, TOLERANCE)
                found.append((difference, [f"user {history.user_id}: {what}" for what in wrong]))
        return found

    return check


def check_answers(
    send: Callable[[Asked], Tensors],
    asked: Iterator[Asked],
    check: Check,
    requests: int,
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """Send so many requests, `CONCURRENCY` at once, and compare every answer.

    Returns their number, those that `failed` by status, the answers by `kv_source`, their largest and mean
    difference, and `differences` beyond `TOLERANCE` in words: one is enough to fail the run.
    """
    failed, sources, found = Counter[str](), Counter[str](), list[tuple[float, list[str]]]()

    def ask(request: Asked) -> Answered | str:
        try:
            return request, send(request)
        except InferenceServerException as error:
            return translate(error).status or "UNKNOWN"

    def settle(replies: Iterable[Answered | str]) -> None:
        answered = []
        for reply in replies:
            if isinstance(reply, str):
                failed[reply] += 1
            else:
                answered.append(reply)
                sources[reply[1]["KV_SOURCE"][0, 0].decode()] += 1
        found.extend(check(answered))
        tell(f"{len(found):,} of {requests:,} answers compared")

    with ThreadPoolExecutor(CONCURRENCY) as senders:
        before: Iterable[Answered | str] = ()
        for first in range(0, requests, CHUNK):
            flying = senders.map(ask, list(islice(asked, min(CHUNK, requests - first))))
            settle(before)
            before = flying
        settle(before)
    differences = [difference for difference, _ in found]
    return {
        "requests": requests,
        "concurrency": CONCURRENCY,
        "tolerance": TOLERANCE,
        "failed": failed,
        "kv_source": sources,
        "largest_difference": max(differences, default=0.0),
        "mean_difference": sum(differences) / max(len(differences), 1),
        "different": sum(bool(wrong) for _, wrong in found),
        "differences": [what for _, wrong in found for what in wrong][:MOST_TOLD],
    }
