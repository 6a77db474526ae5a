"""Many callers at once get what each would get alone."""

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from unipinrec_client import GrpcClient, RecommendResponse

from ensemble.server.embedded_server import EmbeddedServer
from tests.conftest import Exported
from tests.served.metrics import Scrape
from tests.served.requests import inline, stored
from tests.support.answers import Likeness, assert_alike

THREADS, DISTINCT = 8, 400


@pytest.mark.parametrize("count", [1_000, pytest.param(4_000, marks=pytest.mark.slow)])
def test_requests_of_8_threads_equal_their_single_answers(
    server: EmbeddedServer, exported: Exported, promised: Likeness, count: int
) -> None:
    draw = np.random.default_rng(3)
    requests = [
        stored(exported, seed % 320, num_results=int(draw.integers(1, 65)))
        if seed % 2
        else inline(seed, int(draw.integers(201)))
        for seed in range(DISTINCT)
    ]
    with GrpcClient(server.grpc_url) as client:
        alone = [client.recommend(request) for request in requests]
        order = draw.integers(DISTINCT, size=count).tolist()

        def ask(index: int) -> RecommendResponse:
            return client.recommend(requests[index])

        before = Scrape(server)
        began = time.monotonic()
        with ThreadPoolExecutor(THREADS) as pool:
            answers = list(pool.map(ask, order))
        print(f"{count / (time.monotonic() - began):.0f} requests/s")
    # Rows are counted as inferences: fewer executions mean that requests were computed together.
    after = Scrape(server)
    inferred, executed = (
        after.value(name, model="retrieval") - before.value(name, model="retrieval")
        for name in ("nv_inference_count", "nv_inference_exec_count")
    )
    assert inferred == count
    assert executed < 0.9 * count
    assert_alike(answers, [alone[index] for index in order], promised)
    assert Counter(answer.kv_source for answer in answers).keys() == {"prefill", "prefix"}
