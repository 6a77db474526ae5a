"""Many callers at once get what each would get alone."""

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from unipinrec_client import GrpcClient, RecommendResponse

from ensemble.embedded_server import EmbeddedServer
from tests.conftest import Exported
from tests.served.metrics import metric
from tests.served.requests import inline, stored
from tests.support.answers import Likeness, assert_alike

THREADS, REQUESTS, DISTINCT = 8, 4_000, 400


def executions(server: EmbeddedServer) -> float:
    return metric(server, "nv_inference_exec_count", model="retrieval")


def inferences(server: EmbeddedServer) -> float:
    return metric(server, "nv_inference_count", model="retrieval")


def test_4000_requests_of_8_threads_equal_their_single_answers(
    server: EmbeddedServer, exported: Exported, promised: Likeness
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
        order = draw.integers(DISTINCT, size=REQUESTS).tolist()

        def ask(index: int) -> RecommendResponse:
            return client.recommend(requests[index])

        executed, inferred = executions(server), inferences(server)
        began = time.monotonic()
        with ThreadPoolExecutor(THREADS) as pool:
            answers = list(pool.map(ask, order))
        print(f"{REQUESTS / (time.monotonic() - began):.0f} requests/s")
    # Rows are counted as inferences: fewer executions mean that requests were computed together.
    assert inferences(server) - inferred == REQUESTS
    assert executions(server) - executed < 0.9 * REQUESTS
    assert_alike(answers, [alone[index] for index in order], promised)
    assert Counter(answer.kv_source for answer in answers).keys() == {"prefill", "prefix"}
