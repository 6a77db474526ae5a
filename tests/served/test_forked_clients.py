"""A client used before a fork: parent and children get their own answers, or a line that says why not."""

import json
import subprocess
import sys

import pytest

from ensemble.server.embedded_server import EmbeddedServer
from tests.served.forking_caller import CHILDREN, ROUNDS, USERS, Outcomes

ALL_OF_A_CHILD = ROUNDS * USERS // CHILDREN


def forking(case: str, url: str) -> tuple[list[Outcomes], list[Outcomes]]:
    """What the children got, and what their parent."""
    command = [sys.executable, "-m", "tests.served.forking_caller", case, url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    return result["children"], result["here"]


def test_children_do_not_share_the_connections_of_an_http_client(server: EmbeddedServer) -> None:
    children, here = forking("http", server.http_url)
    assert children == [{"right": ALL_OF_A_CHILD}] * 2 * CHILDREN
    assert here == [{"right": 2 * ROUNDS}] * 4


def test_a_grpc_client_outlives_a_fork_between_calls(server: EmbeddedServer) -> None:
    children, here = forking("grpc", server.grpc_url)
    assert children == [{"right": ALL_OF_A_CHILD}] * CHILDREN
    assert here == [{"right": 2 * ROUNDS}]


@pytest.mark.parametrize(
    ("protocol", "own"),
    [("http", "right"), ("grpc", "RuntimeError: gRPC was used with asyncio before a fork; ")],
)
def test_an_asyncio_client_names_the_fork_and_leaves_the_parents_alone(
    server: EmbeddedServer, protocol: str, own: str
) -> None:
    url = server.http_url if protocol == "http" else server.grpc_url
    children, here = forking(f"asyncio-{protocol}", url)
    for outcomes in children:
        inherited_outcome, own_outcome = outcomes
        assert inherited_outcome.startswith("inherited RuntimeError: ")
        assert "before a fork" in inherited_outcome
        assert own_outcome.startswith(f"own {own}")
    assert here == [{"right": 1}]
