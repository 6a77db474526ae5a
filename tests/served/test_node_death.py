"""A node whose process dies is loaded again while the server keeps running, and then answers as before."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from unipinrec_client import GrpcClient, RecommendError, RecommendRequest, RetryPolicy

from ensemble.embedded_server import EmbeddedServer
from ensemble.launcher import UserCanary
from ensemble.watchdog import Watchdog
from tests.conftest import Exported, serving
from tests.served.requests import stored

NODES = ("history", "retrieval", "ann", "ranking")
RECOVERY_S = 60.0


@pytest.fixture(scope="module")
def watched(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    log_path = tmp_path_factory.mktemp("log") / "server.log"
    with (
        serving(exported.bundle, log_path) as server,
        Watchdog(server, [UserCanary()], report=print, interval_s=0.5),
    ):
        yield server


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
        if len(server.node_processes(node)) < instances:
            answered = 0
    return failed


@pytest.mark.parametrize("node", NODES)
def test_a_killed_node_comes_back_with_the_same_answers(
    watched: EmbeddedServer, exported: Exported, node: str
) -> None:
    server_pid = watched.pid
    with GrpcClient(watched.grpc_url, timeout_s=2.0, retry=RetryPolicy(attempts=1)) as client:
        before = [client.recommend(stored(exported, user)).recommendations for user in range(8)]
        instances = watched.node_processes(node)
        os.kill(instances[0], signal.SIGKILL)
        # Only some requests meet the dead one of several instances.
        assert until_recovered(watched, node, len(instances), client, 0) > 0
        after = [client.recommend(stored(exported, user)).recommendations for user in range(8)]
    assert after == before
    assert watched.pid == server_pid
    pools = list(Path(watched.settings.runtime_dir).glob("kv-*.json"))
    assert len(pools) == len(watched.node_processes("retrieval"))
