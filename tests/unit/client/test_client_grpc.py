"""What the gRPC clients have to themselves."""

import threading
import time

import grpc
import pytest
from unipinrec_client import GrpcClient, RecommendError, RecommendRequest, RetryPolicy

from tests.support.triton_servers import GrpcServer, answer, expected
from tests.unit.client.calls import GRPC, ask


def test_a_server_that_comes_back_is_found_by_a_retry():
    first = GrpcServer()
    with GrpcClient(first.url, timeout_s=10.0, retry=RetryPolicy(attempts=60, max_wait_s=0.2)) as client:
        assert client.recommend(RecommendRequest(user_id="1")) == expected("1", 1)
        first.stop()
        second = []
        revival = threading.Timer(0.4, lambda: second.append(GrpcServer(first.url)))
        revival.start()
        started = time.monotonic()
        assert client.recommend(RecommendRequest(user_id="2")) == expected("2", 2)
        # gRPC itself would wait a full second before it connects again.
        assert 0.3 < time.monotonic() - started < 0.9
    revival.join()
    second[0].stop()


@pytest.mark.parametrize("kind", GRPC)
def test_a_server_without_memory_is_not_asked_again(grpc_server, kind):
    grpc_server.failures = [(grpc.StatusCode.RESOURCE_EXHAUSTED, "out of memory")]
    with pytest.raises(RecommendError, match=r"^out of memory$") as raised:
        ask(kind, grpc_server.url)
    assert type(raised.value) is RecommendError
    assert raised.value.status == "RESOURCE_EXHAUSTED"
    assert len(grpc_server.received) == 1


@pytest.mark.parametrize("kind", GRPC)
def test_an_answer_cut_short_is_an_error(grpc_server, kind):
    grpc_server.answer = lambda user_id: answer(user_id) | {"SCORES": ("FP32", [1, 2], b"\x00\x00\x00\x00")}
    with pytest.raises(RecommendError, match="cannot reshape"):
        ask(kind, grpc_server.url)
