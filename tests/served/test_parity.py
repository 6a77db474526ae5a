"""Served answers equal offline PyTorch, whatever protocol, client or batch carries them."""

import asyncio
import dataclasses
from collections import Counter

import numpy as np
import pytest
from unipinrec_client import (
    AsyncGrpcClient,
    AsyncHttpClient,
    GrpcClient,
    HttpClient,
    RecommendRequest,
    RecommendResponse,
)

from ensemble.server.embedded_server import EmbeddedServer
from tests.conftest import ACTIONS, Exported
from tests.served.requests import events_of, inline, offline, stored
from tests.support.answers import Answer, Likeness, assert_alike, offline_answers
from unipinrec.bundle import read_manifest
from unipinrec.models.unified.offline import OfflineRecommender

PARITY_USERS = 200
NUM_RESULTS = 20


def mixed_requests(exported: Exported, count: int) -> list[RecommendRequest]:
    """Stored and inline histories of 0 to 200 events."""
    return [
        stored(exported, seed) if seed % 2 else inline(seed, length=(37 * seed) % 201)
        for seed in range(count)
    ]


def test_200_users_are_served_what_offline_pytorch_recommends(
    server: EmbeddedServer, exported: Exported, promised: Likeness
) -> None:
    requests = [offline(exported, user) for user in range(PARITY_USERS)]
    expected = offline_answers(exported, requests, NUM_RESULTS)
    sources: Counter[str] = Counter()
    queries: Counter[int] = Counter()
    with GrpcClient(server.grpc_url) as client:
        for user, right in enumerate(expected):
            response = client.recommend(stored(exported, user, NUM_RESULTS))
            served = Answer.served(response)
            difference = promised.difference(served, right)
            assert not difference, f"user {user}: {difference}"
            queries.update(served.origins)
            sources[response.kv_source] += 1
    assert sources.keys() <= {"prefill", "prefix"}
    any_outcome = len(ACTIONS)
    made = {(step * (any_outcome + 1) + any_outcome) * 2 + offset for step in range(3) for offset in (0, 1)}
    # Some embeddings are merged into earlier ones; every step finds something.
    assert set(queries) <= made
    assert {origin // 2 // (any_outcome + 1) for origin in queries} == {0, 1, 2}


@pytest.mark.parametrize("weights", [(1.0, 0.0, 0.0), (0.0, 0.0, 2.0), (3.0, 1.0, 0.5)])
def test_outcome_weights_decide_what_is_retrieved(
    server: EmbeddedServer, exported: Exported, promised: Likeness, weights: tuple[float, ...]
) -> None:
    defaults = read_manifest(exported.bundle).defaults
    users = range(40)
    recommender = OfflineRecommender(exported.model)
    requests = [offline(exported, user) for user in users]
    expected = recommender.recommend(requests, NUM_RESULTS, defaults, weights)
    unasked = recommender.recommend(requests, NUM_RESULTS, defaults)
    with GrpcClient(server.grpc_url) as client:
        changed = 0
        for user, answer, before in zip(users, expected, unasked, strict=True):
            request = dataclasses.replace(stored(exported, user, NUM_RESULTS), outcome_weights=weights)
            served = Answer.served(client.recommend(request))
            assert not promised.difference(served, Answer.offline(answer, exported.dataset.item_ids_V))
            outcomes = {origin // 2 % (len(ACTIONS) + 1) for origin in served.origins}
            assert outcomes <= {action for action, weight in enumerate(weights) if weight > 0}
            changed += answer.item_row_K.tolist() != before.item_row_K.tolist()
    assert changed > 30


@pytest.mark.parametrize("weights", [None, (1.0, 0.0, 4.0)])
def test_an_answer_says_which_weights_made_its_scores(
    server: EmbeddedServer, exported: Exported, weights: tuple[float, ...] | None
) -> None:
    request = dataclasses.replace(stored(exported, 5, NUM_RESULTS), utility_weights=weights)
    default = read_manifest(exported.bundle).defaults.utility_weights
    with GrpcClient(server.grpc_url) as grpc, HttpClient(server.http_url) as http:
        for response in (grpc.recommend(request), http.recommend(request)):
            assert response.utility_source == ("default" if weights is None else "given")
            assert response.utility_weights == (default if weights is None else weights)
            for item in response.recommendations:
                score = np.dot(item.action_probabilities, response.utility_weights)
                assert item.score == pytest.approx(score, abs=1e-5)


def test_grpc_and_http_answer_alike(server: EmbeddedServer, exported: Exported, promised: Likeness) -> None:
    requests = mixed_requests(exported, 60)
    with GrpcClient(server.grpc_url) as grpc, HttpClient(server.http_url) as http:
        over_grpc = [grpc.recommend(request) for request in requests]
        assert_alike(over_grpc, [http.recommend(request) for request in requests], promised)


def test_a_batch_of_16_equals_16_single_requests(
    server: EmbeddedServer, exported: Exported, promised: Likeness
) -> None:
    with GrpcClient(server.grpc_url) as client:
        for first in range(0, 160, 16):
            users = [stored(exported, user, num_results=1 + user % 60) for user in range(first, first + 16)]
            assert_alike(
                client.recommend_many(users), [client.recommend(request) for request in users], promised
            )
        histories = [inline(seed, length=(53 * seed) % 201) for seed in range(16)]
        alone = [client.recommend(request) for request in histories]
        assert_alike(client.recommend_many(histories), alone, promised)


@pytest.mark.parametrize("kind", ["grpc", "http"])
def test_asyncio_clients_answer_as_the_blocking_one(
    server: EmbeddedServer, exported: Exported, promised: Likeness, kind: str
) -> None:
    requests = mixed_requests(exported, 32)

    async def ask() -> list[RecommendResponse]:
        client = AsyncGrpcClient(server.grpc_url) if kind == "grpc" else AsyncHttpClient(server.http_url)
        async with client:
            return await asyncio.gather(*(client.recommend(request) for request in requests))

    with GrpcClient(server.grpc_url) as client:
        assert_alike(asyncio.run(ask()), [client.recommend(request) for request in requests], promised)


def test_a_sent_history_counts_as_the_stored_one_does(
    server: EmbeddedServer, exported: Exported, promised: Likeness
) -> None:
    with GrpcClient(server.grpc_url) as client:
        for user in range(0, 60, 5):
            request = stored(exported, user)
            sent = RecommendRequest(
                user_id="somebody else",
                history=events_of(exported, user),
                request_time=request.request_time,
                surface=request.surface,
                num_results=request.num_results,
            )
            assert_alike([client.recommend(sent)], [client.recommend(request)], promised)


def test_every_answer_names_the_bundle(server: EmbeddedServer, exported: Exported) -> None:
    with GrpcClient(server.grpc_url) as client:
        response = client.recommend(stored(exported, 1))
    assert response.bundle_id == exported.bundle.name
