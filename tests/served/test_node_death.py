"""A node whose process dies is loaded again while the server keeps running, and then answers as before.

Meanwhile nothing fails but what meets the dead process.
"""

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
from tests.support.answers import Likeness, assert_alike

NODES = ("history", "retrieval", "ann", "ranking")
RECOVERY_S = 240.0
"""A GPU's nodes load their programs and capture graphs; a CPU's are back within seconds."""


@pytest.fixture(scope="module")
def watched(
    exported: Exported, tmp_path_factory: pytest.TempPathFactory, profile: str | None
) -> Iterator[EmbeddedServer]:
    log_path = tmp_path_factory.mktemp("log") / "server.log"
    with (
        serving(exported.bundle, log_path, profile=profile) as server,
        Watchdog(server, [UserCanary()], report=print, interval_s=0.5),
    ):
        yield server


def until_recovered(server: EmbeddedServer, node: str, instances: int, client: GrpcClient) -> set[str]:
    """Ask until every instance is there, none too many, and ten requests in a row are answered.

    Returns what requests failed with meanwhile.
    """
    deadline = time.monotonic() + RECOVERY_S
    failures: set[str] = set()
    answered = 0
    while answered < 10:
        server.check_running()
        assert time.monotonic() < deadline
        try:
            client.recommend(RecommendRequest(user_id="user-0"))
            answered += 1
        except RecommendError as error:
            failures.add(str(error))
            answered = 0
            time.sleep(0.1)
        if len(server.node_processes(node)) != instances:
            answered = 0
    return failures


@pytest.mark.parametrize("node", NODES)
def test_a_killed_node_comes_back_with_the_same_answers(
    watched: EmbeddedServer, exported: Exported, promised: Likeness, node: str
) -> None:
    server_pid = watched.pid
    with GrpcClient(watched.grpc_url, timeout_s=2.0, retry=RetryPolicy(attempts=1)) as client:
        before = [client.recommend(stored(exported, user)) for user in range(8)]
        instances = watched.node_processes(node)
        os.kill(instances[0], signal.SIGKILL)
        failures = until_recovered(watched, node, len(instances), client)
        assert failures
        # The model is never away: other requests than those that meet the dead process are answered.
        assert not [failure for failure in failures if "unknown model" in failure]
        after = [client.recommend(stored(exported, user)) for user in range(8)]
    assert_alike(after, before, promised)
    assert watched.pid == server_pid
    pools = list(Path(watched.settings.runtime_dir).glob("kv-*.json"))
    assert len(pools) == len(watched.node_processes("retrieval"))
