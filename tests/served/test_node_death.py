"""A node whose process dies is loaded again while the server keeps running, and then answers as before.

Meanwhile nothing fails but what meets the dead process.
"""

import pytest
from unipinrec_client import GrpcClient, RetryPolicy

from ensemble.server.embedded_server import EmbeddedServer
from ensemble.server.launcher import UserCanary
from ensemble.server.watchdog import Watchdog
from tests.conftest import Exported
from tests.served.nodes import NODES, instances_of, kill, until_recovered
from tests.served.requests import stored
from tests.support.answers import Likeness, assert_alike


@pytest.mark.parametrize("node", NODES)
def test_a_killed_node_comes_back_with_the_same_answers(
    server: EmbeddedServer, exported: Exported, promised: Likeness, node: str
) -> None:
    server_pid = server.pid
    instances = instances_of(server)
    with GrpcClient(server.grpc_url, timeout_s=2.0, retry=RetryPolicy(attempts=1)) as client:
        before = [client.recommend(stored(exported, user)) for user in range(8)]
        kill(server.node_processes(node)[:1])
        with Watchdog(server, [UserCanary()], report=print, interval_s=0.5):
            failures = until_recovered(server, instances, client)
        assert failures
        # The model is never away: other requests than those that meet the dead process are answered.
        assert not [failure for failure in failures if "unknown model" in failure]
        after = [client.recommend(stored(exported, user)) for user in range(8)]
    assert_alike(after, before, promised)
    assert server.pid == server_pid
    pools = list(server.serving.runtime_dir.glob("kv-*.json"))
    assert len(pools) == len(server.node_processes("retrieval"))
