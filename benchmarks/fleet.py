"""Three servers that are started, killed and started again."""

import os
import signal
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
    """Replicas of one bundle. Used as a context manager it stops them all."""

    def __init__(self, settings: ServingSettings, folder: Path) -> None:
        """Starts nothing yet; logs go to `folder`."""
        self.endpoints = Endpoints.free_for(REPLICAS)
        self._settings, self._folder = settings, folder
        self.servers = [self._make(number) for number in range(1, REPLICAS + 1)]

    def __enter__(self) -> Self:
        try:
            for server in self.servers:
                server.start()
            for server in self.servers:
                server.wait_until_serving(UserCanary())
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def kill(self, replica: int) -> None:
        """Kills a server and its nodes at once, as a machine that loses power; the first replica is 1."""
        os.killpg(self.servers[replica - 1].pid, signal.SIGKILL)

    def restart(self, replica: int) -> None:
        """Starts a killed server again at the same addresses."""
        self.servers[replica - 1].stop()
        server = self.servers[replica - 1] = self._make(replica)
        server.start()
        server.wait_until_serving(UserCanary())

    def _make(self, replica: int) -> EmbeddedServer:
        return EmbeddedServer(
            model_repository=MODEL_REPOSITORY,
            settings=self._settings,
            endpoints=self.endpoints[replica - 1],
            log_path=self._folder / f"replica-{replica}.log",
        )

    def _stop(self) -> None:
        for server in self.servers:
            server.stop()
