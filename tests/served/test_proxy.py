"""The proxy in front of three real servers, through TLS: users stay, a dead replica is left."""

import json
import ssl
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.http as triton_http
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2, service_pb2_grpc
from unipinrec_client import GrpcClient, HttpClient, RecommendRequest
from unipinrec_client.routing import routing_key

from containers.failover import CALLERS_A_PROTOCOL, ask_all, callers, connect, homes, kill_and_return, logged
from containers.fleet import REPLICAS, Fleet
from containers.proxy import Proxy
from ensemble.settings import ServingSettings
from tests.conftest import USERS, Exported
from tests.served.exchange import exchange
from tests.served.nodes import kill
from tests.support.name_server import NameServer
from tests.support.tools import tool

NAMES = [f"user-{user}" for user in range(60)]
USER = {"name": "USER_ID", "datatype": "BYTES", "shape": [1, 1], "data": ["42"]}
MOST_USERS, MOST_EVENTS, MOST_EXCLUDED, LONGEST_NAME = 16, 8192, 1024, 256
INFER = "/inference.GRPCInferenceService/ModelInfer"


def json_body(*inputs: dict[str, Any], **others: Any) -> str:
    return json.dumps({"inputs": [USER, *inputs], **others})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for name in ("haproxy", "openssl"):
        tool(name)
    return tmp_path_factory.mktemp("proxy")


@pytest.fixture(scope="module")
def fleet(folder: Path, exported: Exported) -> Iterator[Fleet]:
    with Fleet(ServingSettings(bundle=exported.bundle, histories=exported.histories), folder) as fleet:
        yield fleet


@pytest.fixture(scope="module")
def proxy(fleet: Fleet, folder: Path) -> Iterator[Proxy]:
    with Proxy(fleet.endpoints, folder) as proxy:
        for number in range(1, REPLICAS + 1):
            proxy.wait_for(f"grpc/replica-{number}", "UP")
        yield proxy


def test_a_user_stays_on_one_replica_over_both_protocols(proxy: Proxy) -> None:
    accesses = ask_all(proxy, NAMES) + ask_all(proxy, NAMES)
    assert len(accesses) == 4 * len(NAMES)
    assert {access.frontend for access in accesses} == {"grpc~", "https~"}
    by_user: dict[str, set[str]] = {}
    for access in accesses:
        by_user.setdefault(access.user, set()).add(access.replica)
    assert by_user.keys() == {routing_key(name) for name in NAMES}
    assert all(len(replicas) == 1 for replicas in by_user.values())
    assert {*homes(accesses).values()} == {"replica-1", "replica-2", "replica-3"}


def test_the_log_holds_no_user_ids(proxy: Proxy) -> None:
    ask_all(proxy, NAMES[:3])
    assert not any(f"user-{number}" in proxy.output for number in range(USERS))


def test_requests_without_the_header_go_to_all_replicas(proxy: Proxy) -> None:
    before = len(proxy.accesses())
    with triton.InferenceServerClient(
        proxy.grpc_url, ssl=True, root_certificates=str(proxy.certificate)
    ) as client:
        user = triton.InferInput("USER_ID", [1, 1], "BYTES")
        user.set_data_from_numpy(np.array([[b"someone"]], dtype=np.object_))
        for _ in range(6):
            client.infer("recommend", [user], headers=proxy.headers)
    accesses = logged(proxy, before, 6)
    assert {access.user for access in accesses} == {"-"}
    assert len({access.replica for access in accesses}) == REPLICAS


def test_a_replica_whose_name_is_gone_is_left_before_it_stops(
    fleet: Fleet, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Kubernetes ends a pod: its name goes at once, and it answers until the proxy has learned that."""
    names = [f"replica-{number}.test" for number in range(1, REPLICAS + 1)]
    by_name = [replace(each, address=name) for each, name in zip(fleet.endpoints, names, strict=True)]
    users, own = NAMES[:20], folder / "by-name"
    own.mkdir()
    with NameServer({*names}) as server:
        monkeypatch.setenv("UNIPINREC_PROXY_DNS", server.address)
        with Proxy(by_name, own) as proxy:
            for number in range(1, REPLICAS + 1):
                proxy.wait_for(f"grpc/replica-{number}", "UP")
            before = homes(ask_all(proxy, users))
            with callers(proxy, users) as requests:
                server.names.remove(names[1])
                for protocol in ("http", "grpc"):
                    proxy.wait_for(f"{protocol}/replica-2", "MAINT (resolution)")
                without = homes(ask_all(proxy, users))
                server.names.add(names[1])
                for protocol in ("http", "grpc"):
                    proxy.wait_for(f"{protocol}/replica-2", "UP")
            after = homes(ask_all(proxy, users))
    assert {*requests} == {None}
    assert {*without.values()} == {"replica-1", "replica-3"}
    assert all(without[user] == home for user, home in before.items() if home != "replica-2")
    assert after == before


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/health/live", 200),
        ("GET", "/v2/models/recommend/ready", 200),
        ("GET", "/v2/models/recommend", 200),
        # What the servers of this bundle do not have.
        ("GET", "/v2/models/recommend_full/ready", 400),
        ("GET", "/v2/models/recommend_full", 404),
        ("GET", "/v2/models/recommend_separate/ready", 403),
        ("GET", "/v2/models/recommend/config", 403),
        ("GET", "/v2/models/recommend/stats", 403),
        ("POST", "/v2/models/ranking/infer", 403),
        ("POST", "/v2/models/append_events/infer", 403),
        ("POST", "/v2/repository/index", 403),
        ("POST", "/v2/repository/models/recommend/unload", 403),
        ("GET", "/v2/systemsharedmemory/status", 403),
        ("GET", "/metrics", 403),
        ("DELETE", "/v2/models/recommend/infer", 403),
    ],
)
def test_only_recommending_passes_over_http(proxy: Proxy, method: str, path: str, status: int) -> None:
    assert http_request(proxy, method, path)[0] == status


def test_only_recommending_passes_over_grpc(proxy: Proxy) -> None:
    with grpc_channel(proxy) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        assert stub.ServerReady(service_pb2.ServerReadyRequest()).ready
        assert stub.ModelReady(service_pb2.ModelReadyRequest(name="recommend")).ready
        assert not stub.ModelReady(service_pb2.ModelReadyRequest(name="recommend_full")).ready
        with pytest.raises(grpc.RpcError) as unknown:
            stub.ModelInfer(service_pb2.ModelInferRequest(model_name="recommend_full"))
        assert unknown.value.code() is grpc.StatusCode.NOT_FOUND
        refused = [
            (stub.ModelReady, service_pb2.ModelReadyRequest(name="recommend_fuller")),
            (stub.ModelReady, service_pb2.ModelReadyRequest(name="ranking")),
            (stub.ModelInfer, service_pb2.ModelInferRequest(model_name="recommend_separate")),
            (stub.RepositoryIndex, service_pb2.RepositoryIndexRequest()),
            (stub.ModelConfig, service_pb2.ModelConfigRequest(name="recommend")),
            (stub.SystemSharedMemoryStatus, service_pb2.SystemSharedMemoryStatusRequest()),
        ]
        for call, message in refused:
            with pytest.raises(grpc.RpcError) as error:
                call(message)
            assert error.value.code() is grpc.StatusCode.PERMISSION_DENIED


WRONG_KEYS: list[dict[str, str]] = [
    {}, {"unipinrec-api-key": ""}, {"unipinrec-api-key": "0" * 64}, {"authorization": "Bearer x"},
]  # fmt: skip


@pytest.mark.parametrize("headers", WRONG_KEYS, ids=["none", "empty", "another", "of another kind"])
def test_callers_without_a_key_are_refused_over_both_protocols(proxy: Proxy, headers: dict[str, str]) -> None:
    told = "unipinrec-api-key is missing or unknown; allowed: a key of this proxy"
    context = ssl.create_default_context(cafile=str(proxy.certificate))
    for method, path in (
        ("POST", "/v2/models/recommend/infer"),
        ("GET", "/v2/models/recommend"),
        ("POST", "/v2/repository/index"),
        ("POST", "/v2/health/live"),
    ):
        url = f"https://{proxy.http_url}{path}"
        status, said = exchange(method, url, json_body() if method == "POST" else None, headers, context)
        assert (status, json.loads(said)) == (401, {"error": told})
    assert exchange("GET", f"https://{proxy.http_url}/v2/health/ready", None, headers, context)[0] == 200
    with grpc_channel(proxy, headers) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        for call, asked in (
            (stub.ModelInfer, message({"USER_ID": np.array([[b"42"]], np.object_)})),
            (stub.ServerLive, service_pb2.ServerLiveRequest()),
            (stub.RepositoryIndex, service_pb2.RepositoryIndexRequest()),
        ):
            with pytest.raises(grpc.RpcError) as error:
                call(asked)
            assert (error.value.code(), error.value.details()) == (grpc.StatusCode.UNAUTHENTICATED, told)


def test_writing_takes_the_administrators_key_too(proxy: Proxy) -> None:
    """No replica here takes events: behind the proxy, the answer is that there is no such model."""
    told = "unipinrec-admin-key is missing or unknown; allowed: an administrator's key of this proxy"
    admin = {"unipinrec-admin-key": proxy.admin_key}
    for model in ("append_events", "update_items"):
        path = f"/v2/models/{model}/infer"
        status, said = http_request(proxy, "POST", path, json_body())
        assert (status, json.loads(said)) == (403, {"error": told})
        assert (
            http_request(proxy, "POST", path, json_body(), {"unipinrec-admin-key": proxy.api_key})[0] == 403
        )
        status, said = http_request(proxy, "POST", path, json_body(), admin)
        assert (status, b"unknown model" in said) == (404, True)
        asked = message({"USER_ID": np.array([[b"42"]], np.object_)})
        asked.model_name = model
        for headers, code in ((proxy.headers, "PERMISSION_DENIED"), (proxy.headers | admin, "NOT_FOUND")):
            with grpc_channel(proxy, headers) as channel, pytest.raises(grpc.RpcError) as error:
                service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(asked)
            assert error.value.code().name == code


@pytest.mark.parametrize("tag", [b"\x0a", b"\x8a\x00", b"\x8a\x80\x00"])
@pytest.mark.parametrize("model", [b"append_events", b"update_items", b"append_events-2"])
def test_no_second_name_in_a_message_leads_to_a_writing_model(proxy: Proxy, tag: bytes, model: bytes) -> None:
    asked = message({"USER_ID": np.array([[b"42"]], np.object_)}).SerializeToString() + field(tag, model)
    assert service_pb2.ModelInferRequest.FromString(asked).model_name == model.decode()
    with grpc_channel(proxy) as channel, pytest.raises(grpc.RpcError) as error:
        channel.unary_unary(INFER)(asked)
    assert error.value.code() is grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
def test_old_tls_is_refused(proxy: Proxy) -> None:
    context = ssl.create_default_context(cafile=str(proxy.certificate))
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises(ssl.SSLError, match="alert protocol version"):
        exchange("GET", f"https://{proxy.http_url}/v2/health/live", context=context)


def test_no_key_is_in_the_log(proxy: Proxy) -> None:
    post(proxy, json_body())
    assert proxy.api_key not in proxy.output
    assert proxy.admin_key not in proxy.output


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            json_body(outputs=[{"name": "KV_SOURCE", "parameters": {"classification": 1}}]),
            "parameter classification is set; allowed: outputs without it",
        ),
        (
            json_body(outputs=[{"name": "KV_SOURCE", "parameters": {"CLASS": 1}}]).replace(
                "CLASS", r"\u0063lassification"
            ),
            "body has letters as codes; allowed: plain letters",
        ),
        (
            json_body({"name": "EXCLUDE_ITEM_IDS", "datatype": "INT64", "shape": [1, 2**62], "data": [1]}),
            "shape is wrong; allowed: two numbers, below 100 and below 100000",
        ),
        (
            json_body({"name": "SURFACE", "datatype": "INT64", "shape": [1, 10**12], "data": [1]}),
            "shape is wrong; allowed: two numbers, below 100 and below 100000",
        ),
        (
            json_body({"name": "SURFACE", "datatype": "INT64", "shape": [99, 99, 99, 99], "data": [1]}),
            "shape is wrong; allowed: two numbers, below 100 and below 100000",
        ),
        ("[" * 300_000, "body is nested too deep; allowed: 500 brackets"),
        ("[1," * 300_000, "body is nested too deep; allowed: 500 brackets"),
    ],
    ids=[
        "classification",
        "hidden classification",
        "overflow",
        "a tera",
        "four numbers",
        "deep",
        "deep with numbers",
    ],
)
def test_a_request_that_would_kill_a_server_is_refused_over_http(
    fleet: Fleet, proxy: Proxy, body: str, message: str
) -> None:
    assert post(proxy, body) == (400, {"error": message})
    assert_all_serve(fleet, proxy)


@pytest.mark.parametrize(
    ("body", "headers", "status", "message"),
    [
        (
            "1\r\n{\r\n0\r\n\r\n",
            {"Transfer-Encoding": "chunked"},
            400,
            "Content-Length is missing; allowed: one, and no chunks",
        ),
        ("", {"Content-Length": "9000000"}, 413, "body is too large; allowed: 8388608 bytes"),
        ("x", {"Content-Encoding": "gzip"}, 415, "Content-Encoding is set; allowed: none"),
        (
            json_body(),
            {"Inference-Header-Content-Length": "10000"},
            400,
            "Inference-Header-Content-Length is wrong; allowed: 1 to 9999",
        ),
    ],
    ids=["chunks", "too long", "compressed", "long header"],
)
def test_what_the_proxy_cannot_look_through_is_refused(
    fleet: Fleet,
    proxy: Proxy,
    body: str,
    headers: dict[str, str],
    status: int,
    message: str,
) -> None:
    assert post(proxy, body, headers) == (status, {"error": message})
    assert_all_serve(fleet, proxy)


@pytest.mark.parametrize(
    ("tag", "length"), [(b"\x0a", b"\x0e"), (b"\x0a", b"\x8e\x80\x00"), (b"\x8a\x00", b"\x8e\x00")]
)
def test_a_request_that_would_kill_a_server_is_refused_over_grpc(
    fleet: Fleet, proxy: Proxy, tag: bytes, length: bytes
) -> None:
    """Also where idle bytes lengthen what stands before the parameter's name, and zeros before that."""
    entry = tag + length + b"classification" + field(b"\x12", b"\x10\x01")
    output = field(b"\x32", field(b"\x0a", b"KV_SOURCE") + field(b"\x12", entry))
    tensors = {
        "USER_ID": np.array([[b"42"]], np.object_),
        "EXCLUDE_ITEM_IDS": np.zeros((1, MOST_EXCLUDED), np.int64),
    }
    request = message(tensors).SerializeToString() + output
    meant = service_pb2.ModelInferRequest.FromString(request)
    assert meant.outputs[0].parameters["classification"].int64_param == 1
    with grpc_channel(proxy) as channel, pytest.raises(grpc.RpcError) as error:
        channel.unary_unary(INFER)(request)
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error.value.details() == "parameter classification is set; allowed: outputs without it"
    assert_all_serve(fleet, proxy)


def test_a_request_without_a_length_is_refused_over_http_2_too(proxy: Proxy) -> None:
    channel = grpc.secure_channel(proxy.http_url, credentials(proxy, proxy.headers))
    with channel, pytest.raises(grpc.RpcError) as error:
        channel.unary_unary("/v2/models/recommend/infer")(json_body().encode())
    assert error.value.details() == "Received http2 header with status: 400"


def test_compressed_messages_are_refused_and_the_parameters_name_is_no_users(proxy: Proxy) -> None:
    with grpc_channel(proxy) as channel:
        infer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer
        named = message({"USER_ID": np.array([[b"classification"]], np.object_)})
        assert infer(named).model_name == "recommend"
        with pytest.raises(grpc.RpcError) as error:
            infer(message(largest_tensors()), compression=grpc.Compression.Gzip)
        assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert error.value.details() == "message is compressed; allowed: none"


def test_the_largest_requests_pass_over_both_protocols(proxy: Proxy) -> None:
    """16 users with full inline histories, the most exclusions and the longest names."""
    tensors = largest_tensors()
    with grpc_channel(proxy) as channel:
        infer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer
        assert infer(message(tensors)).outputs[0].shape[0] == MOST_USERS
    inputs = []
    for name, array in tensors.items():
        inputs.append(triton_http.InferInput(name, list(array.shape), datatype_of(array)))
        inputs[-1].set_data_from_numpy(array)
    binary, header = triton_http.InferenceServerClient.generate_request_body(inputs)
    status, _ = post(proxy, binary, {"Inference-Header-Content-Length": str(header)})
    assert status == 200
    names = [name.decode() for name in tensors["USER_ID"].ravel()]
    rows = {name: array.tolist() for name, array in tensors.items()} | {"USER_ID": names}
    described = [
        {"name": name, "datatype": datatype_of(array), "shape": list(array.shape), "data": rows[name]}
        for name, array in tensors.items()
    ]
    text = json.dumps({"inputs": described})
    # What `curl -d` calls it; as a form of this size it would kill the server.
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    status, answer = post(proxy, text.ljust(8 * 2**20), form)
    assert (status, answer["outputs"][0]["shape"][0]) == (200, MOST_USERS)
    at_end = text[:-1] + ', "outputs": [{"name": "KV_SOURCE", "parameters": {"classification": 1}}]}'
    assert post(proxy, at_end)[0] == 400


def test_metrics_are_served_beside_the_statistics(proxy: Proxy) -> None:
    _, text = exchange("GET", f"http://{proxy.stats_address}/metrics")
    assert b'haproxy_server_status{proxy="grpc",server="replica-1"' in text


def test_a_drained_replica_gets_no_requests(proxy: Proxy) -> None:
    proxy.command("set server http/replica-2 state drain")
    assert "replica-2" not in {access.replica for access in ask_all(proxy, NAMES)}
    proxy.command("set server http/replica-2 state ready")
    assert "replica-2" in {access.replica for access in ask_all(proxy, NAMES)}


def test_a_killed_replica_costs_requests_in_flight_and_keeps_the_other_users(
    fleet: Fleet, proxy: Proxy
) -> None:
    result = kill_and_return(fleet, proxy, NAMES, after_s=2.0)
    print(result)
    assert result.share_while_all_live == 1.0
    assert result.failed <= 2 * CALLERS_A_PROTOCOL
    assert result.failed_over_s < 1.0
    assert result.share_of_others_under_kill >= 0.95
    assert result.share_after_return == 1.0


def test_a_replica_whose_node_died_is_left_though_it_calls_itself_ready(fleet: Fleet, proxy: Proxy) -> None:
    server = fleet.servers[2]
    kill(server.node_processes("ranking"))
    proxy.wait_for("http/replica-3", "DOWN")
    with server.client() as client:
        assert client.is_server_ready()
    for kind in (GrpcClient, HttpClient):
        with connect(kind, proxy) as through_proxy:
            for name in NAMES:
                assert through_proxy.recommend(RecommendRequest(user_id=name)).recommendations


def http_request(
    proxy: Proxy,
    method: str,
    path: str,
    body: str | bytes | None = None,
    headers: dict[str, str] | None = None,
) -> tuple[int, bytes]:
    context = ssl.create_default_context(cafile=str(proxy.certificate))
    sent = proxy.headers if headers is None else proxy.headers | headers
    return exchange(method, f"https://{proxy.http_url}{path}", body, sent, context)


def post(proxy: Proxy, body: str | bytes, headers: dict[str, str] | None = None) -> tuple[int, Any]:
    """Status and JSON of an inference; the content of a binary answer is left unread."""
    status, content = http_request(proxy, "POST", "/v2/models/recommend/infer", body, headers)
    return status, json.loads(content) if content.endswith(b"}") else None


def grpc_channel(proxy: Proxy, headers: dict[str, str] | None = None) -> grpc.Channel:
    """A channel whose calls carry the caller's key, or other headers."""
    return grpc.secure_channel(
        proxy.grpc_url, credentials(proxy, proxy.headers if headers is None else headers)
    )


def credentials(proxy: Proxy, headers: dict[str, str]) -> grpc.ChannelCredentials:
    """The proxy's certificate, and headers with each call."""

    def add(_: object, callback: Callable[[tuple[tuple[str, str], ...], None], None]) -> None:
        callback(tuple(headers.items()), None)

    trusted = grpc.ssl_channel_credentials(proxy.certificate.read_bytes())
    return grpc.composite_channel_credentials(trusted, grpc.metadata_call_credentials(add))


def message(tensors: Mapping[str, NDArray[Any]]) -> service_pb2.ModelInferRequest:
    request = service_pb2.ModelInferRequest(model_name="recommend")
    for name, array in tensors.items():
        request.inputs.add(name=name, datatype=datatype_of(array), shape=array.shape)
        raw = array.tobytes()
        if array.dtype == object:
            raw = b"".join(struct.pack("<I", len(text)) + text for text in array.ravel())
        request.raw_input_contents.append(raw)
    return request


def datatype_of(array: NDArray[Any]) -> str:
    return "BYTES" if array.dtype == object else "INT64"


def field(tag: bytes, content: bytes) -> bytes:
    """A field of a message, as it is on the wire."""
    return tag + bytes([len(content)]) + content


def largest_tensors() -> dict[str, NDArray[Any]]:
    events = (MOST_USERS, MOST_EVENTS)
    return {
        "USER_ID": np.full((MOST_USERS, 1), b"x" * LONGEST_NAME, np.object_),
        "HISTORY_ITEM_IDS": np.full(events, 2**63 - 1),
        "HISTORY_ACTIONS": np.full(events, 7),
        "HISTORY_TIMESTAMPS": np.full(events, 253_402_300_799),
        "HISTORY_SURFACES": np.full(events, 1),
        "EXCLUDE_ITEM_IDS": np.full((MOST_USERS, MOST_EXCLUDED), 2**63 - 1),
    }


def assert_all_serve(fleet: Fleet, proxy: Proxy) -> None:
    """Each replica's process lives, and the proxy answers."""
    for server in fleet.servers:
        server.check_running()
    assert post(proxy, json_body())[0] == 200
