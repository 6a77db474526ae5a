"""A server that searches in Milvus answers as one that searches the bundle's own index, and outlives it."""

import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from typer.testing import CliRunner
from unipinrec_client import GrpcClient, RecommendError, RecommendRequest, RetryPolicy

from commands.app import app
from tests.conftest import Exported, serving
from tests.served.requests import stored
from tests.support.milvus_server import milvus_server
from tests.support.waiting import holds_within

TIMEOUT_MS = 1_000


def test_answers_are_the_same_and_come_back_with_milvus(exported: Exported, tmp_path: Path) -> None:
    request, data = stored(exported, 3), tmp_path / "data"
    with serving(exported, tmp_path / "own.log") as own, GrpcClient(own.grpc_url) as client:
        expected = [item.item_id for item in client.recommend(request).recommendations]
    with ExitStack() as servers:
        with milvus_server(data) as milvus:
            environment = {"UNIPINREC_INDEX_URL": milvus.url, "UNIPINREC_BUNDLE": str(exported.bundle)}
            pushed = CliRunner().invoke(app, ["index", "push", "--index-type", "FLAT"], env=environment)
            assert pushed.exit_code == 0, pushed.output
            settings = {"index_url": milvus.url, "index_timeout_ms": TIMEOUT_MS}
            served = servers.enter_context(serving(exported, tmp_path / "served.log", **settings))
            client = servers.enter_context(GrpcClient(served.grpc_url, retry=RetryPolicy(attempts=1)))
            assert answered(client, request) == expected
        began = time.monotonic()
        with pytest.raises(RecommendError, match="the item index is away; try again"):
            client.recommend(request)
        # A search that nobody answers takes its limit, and more on a host under load.
        assert time.monotonic() - began < 10 * TIMEOUT_MS / 1e3
        with milvus_server(data, int(milvus.url.rpartition(":")[2])):
            assert holds_within(60, lambda: answered(client, request) == expected)


def answered(client: GrpcClient, request: RecommendRequest) -> list[int] | None:
    try:
        return [item.item_id for item in client.recommend(request).recommendations]
    except RecommendError:
        return None
