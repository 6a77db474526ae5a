"""How closely answers of the served profile are compared, and the shared server for tests that kill nodes."""

from collections.abc import Iterator

import pytest
from unipinrec_client import GrpcClient, RetryPolicy

from ensemble.server.embedded_server import EmbeddedServer
from ensemble.server.launcher import UserCanary
from ensemble.server.watchdog import Watchdog
from tests.served.nodes import instances_of, until_recovered
from tests.support.answers import BATCHED_IN_FLOAT32, PROMISED, Likeness


@pytest.fixture(scope="session")
def promised(profile: str | None) -> Likeness:
    """Answers to one request: in different company, from a prefix or not, served or of offline PyTorch."""
    return BATCHED_IN_FLOAT32 if profile == "gpu" else PROMISED


@pytest.fixture
def revived(server: EmbeddedServer) -> Iterator[EmbeddedServer]:
    """The shared server; nodes that a test killed are loaded again after it."""
    before = instances_of(server)
    yield server
    with (
        Watchdog(server, [UserCanary()], report=print, interval_s=0.5),
        GrpcClient(server.grpc_url, timeout_s=2.0, retry=RetryPolicy(attempts=1)) as client,
    ):
        until_recovered(server, before, client)
