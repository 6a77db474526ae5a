"""A node whose process dies is loaded again while the server keeps running, and then answers as before."""

import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from unipinrec_client import GrpcClient, RecommendError, RecommendRequest, RetryPolicy

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


def processes_of(server: EmbeddedServer, node: str) -> list[psutil.Process]:
    children = psutil.Process(server.pid).children(recursive=True)
    alive = [child for child in children if child.status() != psutil.STATUS_ZOMBIE]
    return [child for child in alive if f"/{node}/1/model.py" in " ".join(child.cmdline())]


def until_recovered(server: EmbeddedServer, node: str, instances: int, client: GrpcClient, user: int) -> int:
    """Ask until every instance is there and ten requests in a row are answered; returns how many failed."""
    deadline = time.monotonic() + RECOVERY_S
    failed = answered = 0
    while answered < 10:
        assert time.monotonic() < deadline
        try:
            client.recommend(RecommendRequest(user_id=f"user-{user}"))
            answered += 1
        except RecommendError:
            failed, answered = failed + 1, 0
            time.sleep(0.1)
        if len(processes_of(server, node)) < instances:
            answered = 0
    return failed


@pytest.mark.parametrize("node", NODES)
def test_a_killed_node_comes_back_with_the_same_answers(
    watched: EmbeddedServer, exported: Exported, node: str
) -> None:
    server_pid = watched.pid
    with GrpcClient(watched.grpc_url, timeout_s=2.0, retry=RetryPolicy(attempts=1)) as client:
        before = [client.recommend(stored(exported, user)).recommendations for user in range(8)]
        instances = processes_of(watched, node)
        instances[0].kill()
        # Only some requests meet the dead one of several instances.
        assert until_recovered(watched, node, len(instances), client, 0) > 0
        after = [client.recommend(stored(exported, user)).recommendations for user in range(8)]
    assert after == before
    assert watched.pid == server_pid
    pools = list(Path(watched.settings.runtime_dir).glob("kv-*.json"))
    assert len(pools) == len(processes_of(watched, "retrieval"))
