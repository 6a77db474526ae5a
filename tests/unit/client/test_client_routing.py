"""Every request names its user for proxies, without the id itself."""

import numpy as np
import pytest
from unipinrec_client import RecommendRequest
from unipinrec_client.routing import ROUTING_HEADER, routing_key

from tests.unit.client.calls import ALL, GRPC, ask

# printf 42 | sha256sum
KEY_OF_42 = "73475cb40a568e8d"


@pytest.fixture(params=ALL)
def kind(request):
    return request.param


@pytest.fixture
def server(request, kind):
    return request.getfixturevalue("grpc_server" if kind in GRPC else "http_server")


def key_sent(server):
    return server.received[-1]["headers"][ROUTING_HEADER]


def test_the_key_is_the_start_of_the_sha256_of_the_id():
    assert routing_key("42") == routing_key(b"42") == KEY_OF_42


@pytest.mark.parametrize("user_id", [42, np.int64(42), np.uint8(42), np.str_("42"), np.bytes_(b"42")])
def test_an_integer_id_has_the_key_of_the_text_that_is_sent(server, kind, user_id):
    ask(kind, server.url, RecommendRequest(user_id=user_id))
    assert key_sent(server) == KEY_OF_42 == routing_key(user_id)


def test_each_request_carries_its_users_key(server, kind):
    ask(kind, server.url, RecommendRequest(user_id="42"))
    assert key_sent(server) == KEY_OF_42
    ask(kind, server.url, RecommendRequest(user_id="43"))
    assert key_sent(server) == routing_key("43") != KEY_OF_42


def test_a_callers_own_key_stays(server, kind):
    ask(kind, server.url, headers={"Unipinrec-User": "tenant-7"})
    assert key_sent(server) == "tenant-7"
