"""The gRPC clients against a real gRPC server that plays Triton's part."""

import asyncio
import math
import socket
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from tritonclient.grpc import service_pb2
from unipinrec_client import (
    AsyncGrpcClient,
    AsyncHttpClient,
    DeadlineExceededError,
    Event,
    GrpcClient,
    HttpClient,
    InvalidRequestError,
    Recommendation,
    RecommendError,
    RecommendRequest,
    RecommendResponse,
    RetryPolicy,
    UnavailableError,
)

QUICK = RetryPolicy(attempts=3, initial_wait_s=0.02, max_wait_s=0.1)


def text(value):
    return struct.pack("<I", len(value)) + value


def answer(user_id):
    """One user's answer of one item and one padded place, packed by hand."""
    return {
        "BUNDLE_ID": ("BYTES", [1, 1], text(b"bundle-1")),
        "KV_SOURCE": ("BYTES", [1, 1], text(b"prefix")),
        "UTILITY_SOURCE": ("BYTES", [1, 1], text(b"given")),
        "USED_UTILITY_WEIGHTS": ("FP32", [1, 2], struct.pack("<2f", 1.0, 0.5)),
        "ITEM_IDS": ("INT64", [1, 2], struct.pack("<2q", int(user_id), -1)),
        "SCORES": ("FP32", [1, 2], struct.pack("<2f", 0.75, -3.4028234663852886e38)),
        "RETRIEVED_BY": ("INT32", [1, 2], struct.pack("<2i", 3, 0)),
        "ACTION_PROBS": ("FP32", [1, 2, 2], struct.pack("<4f", 0.5, 0.25, 0.0, 0.0)),
    }


def expected(user_id, item_id):
    return RecommendResponse(
        user_id=user_id,
        recommendations=(
            Recommendation(item_id=item_id, score=0.75, action_probabilities=(0.5, 0.25), retrieved_by=3),
        ),
        kv_source="prefix",
        bundle_id="bundle-1",
        utility_weights=(1.0, 0.5),
        utility_source="given",
    )


class GrpcServer:
    """Answers with the user id as the item id, after failing or sleeping as told."""

    def __init__(self, address="127.0.0.1:0"):
        self.failures = []
        self.sleep_s = 0.0
        self.answer = answer
        self.requests = []
        self.metadata = []
        self._server = grpc.server(ThreadPoolExecutor(max_workers=4))
        handlers = {
            "ModelInfer": grpc.unary_unary_rpc_method_handler(
                self._infer,
                service_pb2.ModelInferRequest.FromString,
                service_pb2.ModelInferResponse.SerializeToString,
            ),
            "ModelReady": grpc.unary_unary_rpc_method_handler(
                lambda request, _: service_pb2.ModelReadyResponse(ready=request.name == "recommend"),
                service_pb2.ModelReadyRequest.FromString,
                service_pb2.ModelReadyResponse.SerializeToString,
            ),
        }
        service = grpc.method_handlers_generic_handler("inference.GRPCInferenceService", handlers)
        self._server.add_generic_rpc_handlers((service,))
        port = self._server.add_insecure_port(address)
        self.url = address if address.startswith("unix:") else f"127.0.0.1:{port}"
        self._server.start()

    def _infer(self, request, context):
        self.requests.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        if self.failures:
            context.abort(*self.failures.pop(0))
        time.sleep(self.sleep_s)
        names = [tensor.name for tensor in request.inputs]
        user_id = request.raw_input_contents[names.index("USER_ID")][4:]
        response = service_pb2.ModelInferResponse(model_name=request.model_name)
        for name, (datatype, shape, content) in self.answer(user_id).items():
            response.outputs.add(name=name, datatype=datatype, shape=shape)
            response.raw_output_contents.append(content)
        return response

    def stop(self):
        self._server.stop(None).wait()


@pytest.fixture
def server():
    server = GrpcServer()
    yield server
    server.stop()


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def ask(url, asynchronous, request=None, **options):
    request = request or RecommendRequest(user_id="42")
    if not asynchronous:
        with GrpcClient(url, retry=QUICK, **options) as client:
            return client.recommend(request)

    async def asked():
        async with AsyncGrpcClient(url, retry=QUICK, **options) as client:
            return await client.recommend(request)

    return asyncio.run(asked())


both = pytest.mark.parametrize("asynchronous", [False, True])


@both
def test_a_request_arrives_and_its_answer_comes_back(server, asynchronous):
    request = RecommendRequest(user_id="42", history=[Event(item_id=7, actions=5, timestamp=9)], surface=2)
    response = ask(server.url, asynchronous, request, model="recommend_separate", headers={"X-Tenant": "a"})

    assert response == expected("42", 42)
    (received,) = server.requests
    assert received.model_name == "recommend_separate"
    inputs = {
        tensor.name: (tensor.datatype, list(tensor.shape), content)
        for tensor, content in zip(received.inputs, received.raw_input_contents, strict=True)
    }
    assert inputs == {
        "USER_ID": ("BYTES", [1, 1], b"\x02\x00\x00\x0042"),
        "HISTORY_ITEM_IDS": ("INT64", [1, 1], struct.pack("<q", 7)),
        "HISTORY_ACTIONS": ("INT64", [1, 1], struct.pack("<q", 5)),
        "HISTORY_TIMESTAMPS": ("INT64", [1, 1], struct.pack("<q", 9)),
        "HISTORY_SURFACES": ("INT64", [1, 1], struct.pack("<q", 0)),
        "SURFACE": ("INT64", [1, 1], struct.pack("<q", 2)),
    }
    assert {tensor.name for tensor in received.outputs} == set(answer(b"0"))
    assert server.metadata[0]["x-tenant"] == "a"


@both
def test_an_overloaded_server_is_asked_again(server, asynchronous):
    server.failures = [(grpc.StatusCode.UNAVAILABLE, "Exceeds maximum queue size")] * 2
    assert ask(server.url, asynchronous) == expected("42", 42)
    assert len(server.requests) == 3


@both
def test_a_server_that_stays_overloaded_is_asked_three_times(server, asynchronous):
    server.failures = [(grpc.StatusCode.UNAVAILABLE, "Exceeds maximum queue size")] * 9
    with pytest.raises(UnavailableError, match=r"^Exceeds maximum queue size$") as raised:
        ask(server.url, asynchronous)
    assert raised.value.status == "UNAVAILABLE"
    assert len(server.requests) == 3


@both
@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, InvalidRequestError),
        (grpc.StatusCode.INTERNAL, RecommendError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, RecommendError),
    ],
)
def test_a_refused_request_is_not_sent_again(server, asynchronous, code, kind):
    server.failures = [(code, "NUM_RESULTS is 5000; allowed: 1 to 656")]
    with pytest.raises(RecommendError, match=r"^NUM_RESULTS is 5000; allowed: 1 to 656$") as raised:
        ask(server.url, asynchronous)
    assert type(raised.value) is kind
    assert raised.value.status == code.name
    assert len(server.requests) == 1


@both
def test_a_slow_server_is_given_up_at_the_timeout(server, asynchronous):
    server.sleep_s = 1.5
    started = time.monotonic()
    with pytest.raises(DeadlineExceededError):
        ask(server.url, asynchronous, timeout_s=0.3)
    assert 0.25 < time.monotonic() - started < 1.2
    assert len(server.requests) == 1


@both
def test_nobody_listening_is_unavailable(asynchronous):
    with pytest.raises(UnavailableError) as raised:
        ask(f"127.0.0.1:{free_port()}", asynchronous)
    assert raised.value.status == "UNAVAILABLE"


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


@both
def test_an_answer_without_results_is_an_empty_response(server, asynchronous):
    server.answer = lambda item_id: (
        answer(item_id)
        | {
            "ITEM_IDS": ("INT64", [1, 0], b""),
            "SCORES": ("FP32", [1, 0], b""),
            "RETRIEVED_BY": ("INT32", [1, 0], b""),
            "ACTION_PROBS": ("FP32", [1, 0, 2], b""),
        }
    )
    response = ask(server.url, asynchronous)
    assert response.recommendations == ()
    assert response.kv_source == "prefix"


@both
def test_an_answer_cut_short_is_an_error(server, asynchronous):
    server.answer = lambda user_id: answer(user_id) | {"SCORES": ("FP32", [1, 2], b"\x00\x00\x00\x00")}
    with pytest.raises(RecommendError, match="cannot reshape"):
        ask(server.url, asynchronous)


@both
@pytest.mark.parametrize(("model", "ready"), [("recommend", True), ("other", False)])
def test_ready_is_what_the_server_says_of_the_model(server, asynchronous, model, ready):
    assert readiness(server.url, asynchronous, model) is ready


@both
def test_an_absent_server_is_not_ready(asynchronous):
    assert readiness(f"127.0.0.1:{free_port()}", asynchronous, "recommend") is False


def readiness(url, asynchronous, model):
    if not asynchronous:
        with GrpcClient(url, model=model) as client:
            return client.ready()

    async def asked():
        async with AsyncGrpcClient(url, model=model) as client:
            return await client.ready()

    return asyncio.run(asked())


def test_threads_share_one_client(server):
    with GrpcClient(server.url) as client, ThreadPoolExecutor(8) as threads:
        users = [str(number) for number in range(64)]
        responses = list(threads.map(lambda u: client.recommend(RecommendRequest(user_id=u)), users))
    assert responses == [expected(user, int(user)) for user in users]


def test_a_closed_client_says_so(server):
    client = GrpcClient(server.url)
    client.close()
    with pytest.raises(RuntimeError, match="the client is closed"):
        client.recommend(RecommendRequest(user_id="1"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"url": "ftp://localhost:8001"}, "url is 'ftp://localhost:8001'; allowed: host:port"),
        ({"url": "localhost:8001", "timeout_s": 0.0}, "timeout_s is 0.0; allowed: more than 0"),
        ({"url": "localhost:8001", "timeout_s": math.inf}, "timeout_s is inf; allowed: more than 0"),
        ({"url": "localhost:8001", "timeout_s": 1e12}, "timeout_s is 1000000000000.0; allowed: more than 0"),
        ({"url": "localhost:8001", "timeout_s": math.nan}, "timeout_s is nan; allowed: more than 0"),
        ({"url": "localhost:8001", "timeout_s": "5"}, "timeout_s is '5'; allowed: more than 0"),
        ({"url": "localhost:8001", "timeout_s": None}, "timeout_s is None; allowed: more than 0"),
        (
            {"url": "localhost:8001", "root_certificates": "ca.pem"},
            "root_certificates is 'ca.pem'; allowed: None",
        ),
        (
            {"url": "localhost:8001", "root_certificates": "absent.pem", "ssl": True},
            "root_certificates is 'absent.pem'; allowed: a PEM file",
        ),
        (
            {"url": "localhost:8001", "root_certificates": __file__, "ssl": True},
            "root_certificates is .*; allowed: a PEM file",
        ),
        ({"url": "localhost:8001", "headers": {"a b": "c"}}, "headers has the name 'a b'; allowed: letters"),
        ({"url": "localhost:8001", "headers": {"a": "b\n"}}, r"headers\['a'\] has a str; allowed: printable"),
        ({"url": "localhost:8001", "headers": {"a": 5}}, r"headers\['a'\] has a int; allowed: printable"),
    ],
)
@pytest.mark.parametrize("kind", [GrpcClient, AsyncGrpcClient, HttpClient, AsyncHttpClient])
def test_options_out_of_range_are_refused(kind, options, message):
    with pytest.raises(ValueError, match=message):
        kind(**options)


@both
def test_the_longest_timeout_is_not_taken_for_none(server, asynchronous):
    assert ask(server.url, asynchronous, timeout_s=365 * 24 * 3600) == expected("42", 42)
