"""What a server tells about itself: metrics that no request waits for, and logs with the request's id."""

import json
from pathlib import Path
from typing import Any

import pytest
from unipinrec_client import Client, GrpcClient, HttpClient, InvalidRequestError, RecommendRequest

from ensemble.nodes.metrics import FAILURES, STAGES
from ensemble.nodes.ranking import KV_SOURCES
from ensemble.server.embedded_server import EmbeddedServer
from tests.conftest import Exported
from tests.served.exchange import exchange
from tests.served.metrics import Scrape, metric
from tests.served.nodes import NODES
from tests.served.requests import stored

REQUESTS = 12


def test_every_node_counts_batches_stages_and_failures(server: EmbeddedServer, exported: Exported) -> None:
    before = Scrape(server)
    with GrpcClient(server.grpc_url) as client:
        for user in range(REQUESTS):
            client.recommend(stored(exported, user))
        client.recommend(RecommendRequest(user_id="someone new"))
    after = Scrape(server)

    def counted(name: str, **labels: str) -> float:
        return after.value(name, **labels) - before.value(name, **labels)

    users = REQUESTS + 1
    for node in NODES:
        assert counted("unipinrec_batch_rows_sum", node=node) == users
        batches = counted("unipinrec_batch_rows_count", node=node)
        assert 0 < batches <= users
        assert counted("unipinrec_batch_rows_bucket", node=node, le="+Inf") == batches
        for stage in STAGES:
            assert counted("unipinrec_stage_seconds_count", node=node, stage=stage) == batches
            assert 0 < counted("unipinrec_stage_seconds_sum", node=node, stage=stage) < 60
        for reason in FAILURES:
            assert counted("unipinrec_failed_requests_total", node=node, reason=reason) == 0
    assert sum(counted("unipinrec_kv_source_total", source=source) for source in KV_SOURCES) == users
    assert counted("unipinrec_candidates_count", node="ann") == users
    assert counted("unipinrec_cold_starts_total", node="history") == 1


@pytest.mark.parametrize("transport", [GrpcClient, HttpClient])
def test_a_request_is_found_in_the_logs_by_its_id(
    server: EmbeddedServer, exported: Exported, transport: type[Client]
) -> None:
    refused_before = metric(server, "unipinrec_failed_requests_total", node="history", reason="invalid")
    url = server.grpc_url if transport is GrpcClient else server.http_url
    with transport(url) as client:
        answered = client.recommend(stored(exported, 3))
        named = client.recommend(stored(exported, 3), request_id=f"chosen-{transport.__name__}")
        with pytest.raises(InvalidRequestError, match="NUM_RESULTS is -3") as refusal:
            client.recommend(RecommendRequest(user_id="42", num_results=-3))
    assert named.request_id == f"chosen-{transport.__name__}"
    for response in (answered, named):
        lines = logged(server.log_path, response.request_id)
        assert sorted(line["node"] for line in lines) == sorted(NODES)
    (refused,) = logged(server.log_path, refusal.value.request_id)
    assert (refused["node"], refused["reason"], refused["level"]) == ("history", "invalid", "INFO")
    assert "NUM_RESULTS is -3" in refused["message"]
    assert "[request" not in str(refusal.value)
    refused_after = metric(server, "unipinrec_failed_requests_total", node="history", reason="invalid")
    assert refused_after == refused_before + 1


@pytest.mark.parametrize(
    ("sent", "told"), [("7f", " [request 7f]"), ("x" * 500, f" [request {'x' * 128}]"), ("", "")]
)
def test_a_refusal_tells_whoever_reads_it_the_requests_id(
    server: EmbeddedServer, sent: str, told: str
) -> None:
    tensors = {"USER_ID": ("BYTES", "42"), "NUM_RESULTS": ("INT64", -3)}
    inputs = [
        {"name": name, "datatype": kind, "shape": [1, 1], "data": [value]}
        for name, (kind, value) in tensors.items()
    ]
    body = {"inputs": inputs} | ({"id": sent} if sent else {})
    status, said = exchange("POST", f"{server.http_url}/v2/models/recommend/infer", json.dumps(body))
    assert status == 400
    assert json.loads(said)["error"].endswith(f"NUM_RESULTS is -3 at user 0; allowed: 1 to 128{told}")


def logged(path: Path, request_id: str) -> list[dict[str, Any]]:
    lines = [line for line in path.read_text(errors="replace").splitlines() if line.startswith("{")]
    return [line for line in map(json.loads, lines) if line.get("request_id") == request_id]
