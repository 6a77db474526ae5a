"""Three servers that are started, killed and started again."""

import os
import signal
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from ensemble.graph import MODEL_REPOSITORY
from ensemble.server.embedded_server import EmbeddedServer
from ensemble.server.endpoints import Endpoints
from ensemble.server.launcher import UserCanary
from ensemble.settings import ServingSettings

REPLICAS = 3


class Fleet:
    """Replicas of one bundle, which run while the context lasts."""

    def __init__(self, settings: ServingSettings, folder: Path) -> None:
        """Start nothing yet; logs go to `folder`."""
        self.endpoints = Endpoints.free_for(REPLICAS)
        self.servers = [
            EmbeddedServer(
                model_repository=MODEL_REPOSITORY,
                settings=settings,
                endpoints=endpoints,
                log_path=folder / f"replica-{number}.log",
            )
            for number, endpoints in enumerate(self.endpoints, start=1)
        ]
        self._running = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as started:
            for server in self.servers:
                started.enter_context(server).start()
            for server in self.servers:
                server.wait_until_serving(UserCanary())
            self._running = started.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._running.close()

    def kill(self, replica: int) -> None:
        """Kill a server and its nodes at once, as a machine that loses power; the first replica is 1."""
        os.killpg(self.servers[replica - 1].pid, signal.SIGKILL)

    def restart(self, replica: int) -> None:
        """Start a killed server again at the same addresses."""
        server = self.servers[replica - 1]
        server.stop()
        server.start()
        server.wait_until_serving(UserCanary())
