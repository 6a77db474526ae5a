"""Nothing of Triton's administration answers without the launcher's key, over either protocol."""

import json
from collections.abc import Iterator

import grpc
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from ensemble.server.embedded_server import EmbeddedServer
from tests.served.exchange import exchange

OPEN = {
    "ServerLive", "ServerReady", "ServerMetadata", "ModelReady", "ModelMetadata", "ModelInfer",
    "ModelStreamInfer",
}  # fmt: skip
"""What callers need; everything else that the service has is administration."""
SERVICE = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
RESTRICTED = [method for method in SERVICE.methods if method.name not in OPEN]

REGION = {"key": "/unipinrec", "offset": 0, "byte_size": 64}
CALLS = [
    ("POST", "/v2/repository/index", {}),
    ("POST", "/v2/repository/models/recommend/load", {}),
    ("POST", "/v2/repository/models/recommend/unload", {}),
    ("GET", "/v2/models/recommend/config", None),
    ("GET", "/v2/models/recommend/versions/1/config", None),
    ("GET", "/v2/models/stats", None),
    ("GET", "/v2/models/ranking/stats", None),
    ("GET", "/v2/models/ranking/versions/1/stats", None),
    ("GET", "/v2/trace/setting", None),
    ("POST", "/v2/trace/setting", {"trace_rate": "1"}),
    ("GET", "/v2/models/recommend/trace/setting", None),
    ("POST", "/v2/models/recommend/trace/setting", {"trace_level": ["TENSORS"]}),
    ("GET", "/v2/logging", None),
    ("POST", "/v2/logging", {"log_verbose_level": 9}),
    *(
        call
        for kind in ("systemsharedmemory", "cudasharedmemory")
        for call in (
            ("GET", f"/v2/{kind}/status", None),
            ("GET", f"/v2/{kind}/region/mine/status", None),
            ("POST", f"/v2/{kind}/region/mine/register", REGION),
            ("POST", f"/v2/{kind}/region/mine/unregister", {}),
            ("POST", f"/v2/{kind}/unregister", {}),
        )
    ),
]
KEYS = [{}, {"unipinrec-admin": "0" * 32}, {"unipinrec-admin": ""}, {"unipinrec-admin-key": "0" * 32}]
"""Headers of callers who do not have it."""


@pytest.fixture(scope="module")
def channel(server: EmbeddedServer) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.grpc_url, [("grpc.enable_http_proxy", 0)]) as channel:
        yield channel


@pytest.mark.parametrize("key", KEYS, ids=["none", "another", "empty", "the callers'"])
@pytest.mark.parametrize("method", RESTRICTED, ids=lambda method: method.name)
def test_it_is_refused_over_grpc(channel: grpc.Channel, method: type, key: dict[str, str]) -> None:
    call = getattr(service_pb2_grpc.GRPCInferenceServiceStub(channel), method.name)
    metadata = [(f"triton-grpc-protocol-{name}", value) for name, value in key.items()]
    with pytest.raises(grpc.RpcError) as refused:
        call(getattr(service_pb2, method.input_type.name)(), metadata=metadata, timeout=10)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "This protocol is restricted" in refused.value.details()


@pytest.mark.parametrize("key", KEYS, ids=["none", "another", "empty", "the callers'"])
@pytest.mark.parametrize(("method", "path", "body"), CALLS)
def test_it_is_refused_over_http(
    server: EmbeddedServer, method: str, path: str, body: dict[str, object] | None, key: dict[str, str]
) -> None:
    content = None if body is None else json.dumps(body)
    status, said = exchange(method, f"{server.http_url}{path}", content, key)
    assert status == 403
    assert b"restricted" in said


def test_with_the_key_it_answers(server: EmbeddedServer, channel: grpc.Channel) -> None:
    stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
    metadata = list(server.admin_headers.items())
    assert stub.RepositoryIndex(service_pb2.RepositoryIndexRequest(), metadata=metadata).models
    (secret,) = server.admin_headers.values()
    status, said = exchange(
        "POST", f"{server.http_url}/v2/repository/index", "{}", {"unipinrec-admin": secret}
    )
    assert (status, b"recommend" in said) == (200, True)


def test_no_request_reads_or_writes_shared_memory_by_name(
    server: EmbeddedServer, channel: grpc.Channel
) -> None:
    """A region of the machine would have to be registered before."""
    request = service_pb2.ModelInferRequest(model_name="recommend")
    user = request.inputs.add(name="USER_ID", datatype="BYTES", shape=[1, 1])
    user.parameters["shared_memory_region"].string_param = "mine"
    user.parameters["shared_memory_byte_size"].int64_param = 64
    with pytest.raises(grpc.RpcError) as refused:
        service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request)
    assert "Unable to find shared memory region: 'mine'" in refused.value.details()
    parameters = {"shared_memory_region": "mine", "shared_memory_byte_size": 64}
    tensor = {"name": "USER_ID", "datatype": "BYTES", "shape": [1, 1], "parameters": parameters}
    url = f"{server.http_url}/v2/models/recommend/infer"
    status, said = exchange("POST", url, json.dumps({"inputs": [tensor]}))
    assert (status, b"shared memory region" in said) == (404, True)
