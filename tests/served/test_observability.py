"""What a server tells about itself: metrics that no request waits for, and logs with the request's id."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from unipinrec_client import Client, GrpcClient, HttpClient, InvalidRequestError, RecommendRequest

from ensemble.embedded_server import EmbeddedServer
from ensemble.endpoints import Endpoints
from ensemble.launcher import MODEL_REPOSITORY, default_canaries
from ensemble.metrics import FAILURES, STAGES
from ensemble.ranking import KV_SOURCES
from ensemble.settings import ServingSettings
from tests.conftest import Exported
from tests.served.metrics import metric
from tests.served.requests import stored

NODES = ("history", "retrieval", "ann", "ranking")
REQUESTS = 12


@pytest.fixture(scope="module")
def talkative(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    server = EmbeddedServer(
        model_repository=MODEL_REPOSITORY,
        settings=ServingSettings(bundle=exported.bundle, log_level="INFO"),
        endpoints=Endpoints.free(),
        log_path=tmp_path_factory.mktemp("log") / "server.log",
    )
    with server:
        server.start()
        for canary in default_canaries(server.models):
            server.wait_until_serving(canary)
        yield server


def test_every_node_counts_batches_stages_and_failures(talkative: EmbeddedServer, exported: Exported) -> None:
    before = {node: metric(talkative, "unipinrec_batch_rows_sum", node=node) for node in NODES}
    with GrpcClient(talkative.grpc_url) as client:
        for user in range(REQUESTS):
            client.recommend(stored(exported, user))
    for node in NODES:
        assert metric(talkative, "unipinrec_batch_rows_sum", node=node) == before[node] + REQUESTS
        batches = metric(talkative, "unipinrec_batch_rows_count", node=node)
        assert metric(talkative, "unipinrec_batch_rows_bucket", node=node, le="+Inf") == batches
        for stage in STAGES:
            assert metric(talkative, "unipinrec_stage_seconds_count", node=node, stage=stage) == batches
            assert 0 < metric(talkative, "unipinrec_stage_seconds_sum", node=node, stage=stage) < 60
        for reason in FAILURES:
            assert metric(talkative, "unipinrec_failed_requests_total", node=node, reason=reason) == 0
    users = sum(metric(talkative, "unipinrec_kv_source_total", source=source) for source in KV_SOURCES)
    assert users == metric(talkative, "unipinrec_batch_rows_sum", node="ranking")
    assert metric(talkative, "unipinrec_candidates_count", node="ann") == users
    assert metric(talkative, "unipinrec_cold_starts_total", node="history") > 0


@pytest.mark.parametrize("transport", [GrpcClient, HttpClient])
def test_a_request_is_found_in_the_logs_by_its_id(
    talkative: EmbeddedServer, exported: Exported, transport: type[Client]
) -> None:
    refused_before = metric(talkative, "unipinrec_failed_requests_total", node="history", reason="invalid")
    url = talkative.grpc_url if transport is GrpcClient else talkative.http_url
    with transport(url) as client:
        answered = client.recommend(stored(exported, 3))
        named = client.recommend(stored(exported, 3), request_id=f"chosen-{transport.__name__}")
        with pytest.raises(InvalidRequestError, match="NUM_RESULTS is -3") as refusal:
            client.recommend(RecommendRequest(user_id="42", num_results=-3))
    assert named.request_id == f"chosen-{transport.__name__}"
    for response in (answered, named):
        lines = logged(talkative.log_path, response.request_id)
        assert sorted(line["node"] for line in lines) == sorted(NODES)
    (refused,) = logged(talkative.log_path, refusal.value.request_id)
    assert (refused["node"], refused["reason"], refused["level"]) == ("history", "invalid", "INFO")
    assert "NUM_RESULTS is -3" in refused["message"]
    refused_after = metric(talkative, "unipinrec_failed_requests_total", node="history", reason="invalid")
    assert refused_after == refused_before + 1


def logged(path: Path, request_id: str) -> list[dict[str, Any]]:
    lines = [line for line in path.read_text(errors="replace").splitlines() if line.startswith("{")]
    return [line for line in map(json.loads, lines) if line.get("request_id") == request_id]
