"""A running container of the server's image."""

import json
import os
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from containers.compose import Service
from containers.engine import Engine, EngineError
from ensemble.server.endpoints import Endpoints

POLL_S = 2.0


class Container:
    """The image, run as a service of the compose file has it, but on the host's network.

    Used as a context manager it is removed at the end, whatever became of it.
    """

    def __init__(
        self, engine: Engine, image: str, service: Service, bundle: str, endpoints: Endpoints
    ) -> None:
        """`bundle` is the name of a folder or link in the folder that the service mounts at /bundles."""
        self.endpoints = endpoints
        self.service = service
        self.name = f"image-check-{service.name}-{os.getpid()}"
        self._engine = engine
        variables = {
            "ADDRESS": self.endpoints.address,
            "HTTP_PORT": self.endpoints.http_port,
            "GRPC_PORT": self.endpoints.grpc_port,
            "METRICS_PORT": self.endpoints.metrics_port,
            "BUNDLE": f"/bundles/{bundle}",
        }
        chosen = [f"--env=UNIPINREC_{name}={value}" for name, value in variables.items()]
        # Health is asked here, alike with every engine: Podman needs systemd to ask by itself.
        here = [f"--name={self.name}", "--detach", "--network=host", "--no-healthcheck"]
        self._start = ["run", *here, *service.options, *chosen, image]
        self._started = 0.0

    def __enter__(self) -> Self:
        self._started = time.monotonic()
        try:
            self._engine.run(*self._start)
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove()

    @property
    def grpc_url(self) -> str:
        """Where it answers over gRPC."""
        return f"{self.endpoints.address}:{self.endpoints.grpc_port}"

    @property
    def http_url(self) -> str:
        """Where it answers over HTTP."""
        return f"{self.endpoints.address}:{self.endpoints.http_port}"

    @property
    def output(self) -> str:
        """All that it has printed."""
        answer = self._engine.try_out("logs", self.name, timeout_s=60)
        return answer.stdout + answer.stderr if answer else ""

    def wait_until_healthy(self) -> float:
        """Seconds from the start until the service's health check passed in the container.

        Raises:
            EngineError: it has ended, or an engine would call it unhealthy by then.
        """
        allowed = self.service.healthy_within_s
        while time.monotonic() < self._started + allowed:
            checked = self._engine.try_out(
                "exec", self.name, *self.service.health_command, timeout_s=self.service.health_timeout_s
            )
            if checked is not None and checked.returncode == 0:
                return time.monotonic() - self._started
            if self._state()["Running"] is not True:
                raise self._failed("has ended")
            time.sleep(POLL_S)
        raise self._failed(f"is not healthy after {allowed:g} s")

    def probe(self) -> Mapping[str, Any]:
        """How the kernel confines and bounds it, as `containers/probe.py` prints it."""
        printed = self._engine.run("exec", self.name, "python", "-m", "containers.probe")
        found: Mapping[str, Any] = json.loads(printed)
        return found

    def stop(self) -> float:
        """Seconds that the stop took.

        Raises:
            EngineError: the server did not end by itself and in order within the grace period.
        """
        began = time.monotonic()
        self._engine.run("stop", "-t", f"{self.service.grace_s:g}", self.name)
        took = time.monotonic() - began
        code = self._state()["ExitCode"]
        if code != 0 or not self.output.rstrip().endswith("Stopped."):
            raise self._failed(f"ended with {code} after {took:.1f} s")
        return took

    def _failed(self, how: str) -> EngineError:
        self._engine.report(self.output)
        return EngineError(f"{self.name} {how}; what it printed stands above")

    def _state(self) -> Mapping[str, Any]:
        answer = self._engine.try_out("inspect", "--format", "{{json .State}}", self.name, timeout_s=60)
        if answer is None or answer.returncode != 0:
            raise EngineError(f"{self.name} is gone: {answer.stderr.strip() if answer else 'no answer'}")
        state: Mapping[str, Any] = json.loads(answer.stdout)
        return state

    def _remove(self) -> None:
        self._engine.try_out("rm", "--force", self.name, timeout_s=60)
