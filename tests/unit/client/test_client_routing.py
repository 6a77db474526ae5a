"""Every request names its user for proxies, without the id itself."""

import asyncio

import numpy as np
import pytest
from unipinrec_client import AsyncGrpcClient, AsyncHttpClient, GrpcClient, HttpClient, RecommendRequest
from unipinrec_client.routing import ROUTING_HEADER, routing_key

from tests.unit.client.test_client_grpc import GrpcServer
from tests.unit.client.test_client_http import HttpServer

# printf 42 | sha256sum
KEY_OF_42 = "73475cb40a568e8d"


def grpc_metadata(server):
    return server.metadata[-1]


def http_headers(server):
    return {name.lower(): value for name, value in server.requests[-1][1].items()}


@pytest.fixture(params=[(GrpcServer, grpc_metadata), (HttpServer, http_headers)], ids=["grpc", "http"])
def played(request):
    start, received = request.param
    server = start()
    yield server, lambda: received(server)
    server.stop()


def blocking(server, request, headers=None):
    kind = GrpcClient if isinstance(server, GrpcServer) else HttpClient
    with kind(server.url, headers=headers) as client:
        client.recommend(request)


def asynchronous(server, request, headers=None):
    async def ask():
        kind = AsyncGrpcClient if isinstance(server, GrpcServer) else AsyncHttpClient
        async with kind(server.url, headers=headers) as client:
            await client.recommend(request)

    asyncio.run(ask())


def test_the_key_is_the_start_of_the_sha256_of_the_id():
    assert routing_key("42") == routing_key(b"42") == KEY_OF_42


@pytest.mark.parametrize("user_id", [42, np.int64(42), np.uint8(42), np.str_("42"), np.bytes_(b"42")])
def test_an_integer_id_has_the_key_of_the_text_that_is_sent(played, user_id):
    server, received = played
    blocking(server, RecommendRequest(user_id=user_id))
    assert received()[ROUTING_HEADER] == KEY_OF_42 == routing_key(user_id)


@pytest.mark.parametrize("ask", [blocking, asynchronous])
def test_each_request_carries_its_users_key(played, ask):
    server, received = played
    ask(server, RecommendRequest(user_id="42"))
    assert received()[ROUTING_HEADER] == KEY_OF_42
    ask(server, RecommendRequest(user_id="43"))
    assert received()[ROUTING_HEADER] == routing_key("43") != KEY_OF_42


def test_a_callers_own_key_stays(played):
    server, received = played
    blocking(server, RecommendRequest(user_id="42"), headers={"Unipinrec-User": "tenant-7"})
    assert received()[ROUTING_HEADER] == "tenant-7"
