"""The proxy in front of three real servers, through TLS: users stay, a dead replica is left."""

import http.client
import os
import signal
import ssl
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2, service_pb2_grpc
from unipinrec_client import GrpcClient, HttpClient, RecommendRequest
from unipinrec_client.routing import routing_key

from benchmarks.fleet import REPLICAS, Fleet
from benchmarks.proxy import Proxy
from benchmarks.scale import CALLERS_A_PROTOCOL, ask_all, connect, homes, kill_and_return, logged
from ensemble.settings import ServingSettings
from tests.conftest import USERS, Exported
from tests.support.tools import tool

NAMES = [f"user-{user}" for user in range(60)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for name in ("haproxy", "openssl"):
        tool(name)
    return tmp_path_factory.mktemp("proxy")


@pytest.fixture(scope="module")
def fleet(folder: Path, exported: Exported) -> Iterator[Fleet]:
    with Fleet(ServingSettings(bundle=exported.bundle), folder) as fleet:
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
            client.infer("recommend", [user])
    accesses = logged(proxy, before, 6)
    assert {access.user for access in accesses} == {"-"}
    assert len({access.replica for access in accesses}) == REPLICAS


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/health/live", 200),
        ("GET", "/v2/models/recommend/ready", 200),
        ("GET", "/v2/models/recommend", 200),
        ("GET", "/v2/models/recommend/config", 403),
        ("GET", "/v2/models/recommend/stats", 403),
        ("POST", "/v2/models/ranking/infer", 403),
        ("POST", "/v2/repository/index", 403),
        ("POST", "/v2/repository/models/recommend/unload", 403),
        ("GET", "/v2/systemsharedmemory/status", 403),
        ("GET", "/metrics", 403),
        ("DELETE", "/v2/models/recommend/infer", 403),
    ],
)
def test_only_recommending_passes_over_http(proxy: Proxy, method: str, path: str, status: int) -> None:
    host, port = proxy.http_url.split(":")
    context = ssl.create_default_context(cafile=str(proxy.certificate))
    connection = http.client.HTTPSConnection(host, int(port), context=context, timeout=10)
    connection.request(method, path)
    assert connection.getresponse().status == status
    connection.close()


def test_only_recommending_passes_over_grpc(proxy: Proxy) -> None:
    credentials = grpc.ssl_channel_credentials(proxy.certificate.read_bytes())
    with grpc.secure_channel(proxy.grpc_url, credentials) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        assert stub.ServerReady(service_pb2.ServerReadyRequest()).ready
        assert stub.ModelReady(service_pb2.ModelReadyRequest(name="recommend")).ready
        refused = [
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


def test_metrics_are_served_beside_the_statistics(proxy: Proxy) -> None:
    connection = http.client.HTTPConnection(proxy.stats_address, timeout=5)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    assert 'haproxy_server_status{proxy="grpc",server="replica-1"' in text


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
    for pid in server.node_processes("ranking"):
        os.kill(pid, signal.SIGKILL)
    proxy.wait_for("http/replica-3", "DOWN")
    with server.client() as client:
        assert client.is_server_ready()
    for kind in (GrpcClient, HttpClient):
        with connect(kind, proxy) as through_proxy:
            for name in NAMES:
                assert through_proxy.recommend(RecommendRequest(user_id=name)).recommendations
