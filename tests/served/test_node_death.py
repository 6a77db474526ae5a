"""A node whose process dies is loaded again while the server keeps running, and then answers as before."""

import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from unipinrec_client import GrpcClient, RecommendError, RecommendRequest, RecommendResponse, RetryPolicy

from ensemble.embedded_server import EmbeddedServer
from ensemble.launcher import UserCanary
from ensemble.watchdog import Watchdog
from tests.conftest import Exported, serving
from tests.served.requests import stored

NODES = ("history", "retrieval", "ann", "ranking")
RECOVERY_S = 20.0


@pytest.fixture(scope="module")
def watched(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    log_path = tmp_path_factory.mktemp("log") / "server.log"
    with (
        serving(exported.bundle, log_path) as server,
        Watchdog(server, [UserCanary()], report=print, interval_s=0.5),
    ):
        yield server


def process_of(server: EmbeddedServer, node: str) -> psutil.Process:
    children = psutil.Process(server.pid).children(recursive=True)
    alive = [child for child in children if child.status() != psutil.STATUS_ZOMBIE]
    return next(child for child in alive if f"/{node}/1/model.py" in " ".join(child.cmdline()))


def until_answered(client: GrpcClient, request: RecommendRequest) -> RecommendResponse:
    deadline = time.monotonic() + RECOVERY_S
    while True:
        try:
            return client.recommend(request)
        except RecommendError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


@pytest.mark.parametrize("node", NODES)
def test_a_killed_node_comes_back_with_the_same_answers(
    watched: EmbeddedServer, exported: Exported, node: str
) -> None:
    server_pid = watched.pid
    with GrpcClient(watched.grpc_url, timeout_s=2.0, retry=RetryPolicy(attempts=1)) as client:
        before = [client.recommend(stored(exported, user)) for user in range(8)]
        process_of(watched, node).kill()
        with pytest.raises(RecommendError):
            client.recommend(stored(exported, 0))
        until_answered(client, stored(exported, 0))
        assert [client.recommend(stored(exported, user)) for user in range(8)] == before
    assert watched.pid == server_pid
    pools = list(Path(watched.settings.runtime_dir).glob("kv-*.json"))
    assert len(pools) == 1
