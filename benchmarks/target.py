"""The server under test: on loopback and free ports, ended with the block that started it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tritonclient.grpc as triton

from benchmarks.caller import GrpcCaller, RequestMaker
from benchmarks.random_bundle import RandomBundle
from benchmarks.stages import ServerStatistics
from benchmarks.workload import EventSpace
from ensemble.graph import MODEL_REPOSITORY
from ensemble.server.embedded_server import EmbeddedServer
from ensemble.server.endpoints import Endpoints
from ensemble.server.launcher import UserCanary
from ensemble.settings import ServingSettings

UNIFIED, SEPARATE = "recommend", "recommend_separate"

CANARY_TIMEOUT_S = 30.0
START_TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True)
class Target:
    """A running server, and what is asked of it."""

    client: triton.InferenceServerClient
    statistics: ServerStatistics
    make_request: RequestMaker
    space: EventSpace
    models: Mapping[str, str]
    """The ensemble behind each stack."""

    def caller(self, stack: str, timeout_s: float) -> GrpcCaller:
        """Sends visits to the stack's ensemble."""
        return GrpcCaller(self.client, self.models[stack], self.make_request, timeout_s)

    def nodes(self, stack: str) -> tuple[str, ...]:
        """The models of the stack's ensemble, in order."""
        return self.statistics.nodes(self.models[stack])

    def describe(self) -> dict[str, Any]:
        """Version of the server, and processes of each node."""
        nodes = {node for stack in self.models for node in self.nodes(stack)}
        return {
            "triton": self.client.get_server_metadata(as_json=True)["version"],
            "instances": {node: self.statistics.instances(node) for node in sorted(nodes)},
        }


@contextmanager
def serving(
    made: RandomBundle,
    settings: ServingSettings,
    models: Mapping[str, str],
    log_path: Path,
    *,
    profile: str | None = None,
    start_timeout_s: float = START_TIMEOUT_S,
) -> Iterator[Target]:
    """The bundle on an embedded server, from its first answers on.

    Raises:
        ServerError: it does not start within `start_timeout_s`.
    """
    server = EmbeddedServer(
        model_repository=MODEL_REPOSITORY,
        settings=settings,
        endpoints=Endpoints.free(),
        baseline=SEPARATE in models.values(),
        profile=profile,
        log_path=log_path,
    )
    with server:
        server.start()
        for model in sorted(set(models.values())):
            server.wait_until_serving(UserCanary(model=model, timeout_s=CANARY_TIMEOUT_S), start_timeout_s)
        with server.client() as client:
            yield Target(
                client,
                ServerStatistics(client, server.admin_headers),
                RequestMaker(made.item_ids, made.num_results),
                EventSpace.of(made.manifest),
                models,
            )
