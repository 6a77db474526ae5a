"""A running container of the server's image."""

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Self

from containers.compose import ComposeError, Service, run_options, seconds
from containers.engine import Engine, EngineError
from ensemble.server.endpoints import Endpoints

POLL_S = 2.0


@dataclass(slots=True, frozen=True)
class Container:
    """The image, run as a service of the compose file has it, but on the host's network."""

    engine: Engine
    name: str
    service: Service
    endpoints: Endpoints
    started: float = field(default_factory=time.monotonic)

    @classmethod
    @contextmanager
    def running(
        cls, engine: Engine, image: str, name: str, service: Service, bundle: str, endpoints: Endpoints
    ) -> Iterator[Self]:
        """Yield a container that has started; it is removed at the end, whatever became of it.

        `bundle` is the name of a folder or link in the folder that the service mounts at /bundles.
        """
        container = cls(engine, f"image-check-{name}-{os.getpid()}", service, endpoints)
        variables = {
            "ADDRESS": endpoints.address,
            "HTTP_PORT": endpoints.http_port,
            "GRPC_PORT": endpoints.grpc_port,
            "METRICS_PORT": endpoints.metrics_port,
            "HEALTH_PORT": endpoints.health_port,
            "BUNDLE": f"/bundles/{bundle}",
        }
        chosen = [f"--env=UNIPINREC_{variable}={value}" for variable, value in variables.items()]
        # Health is asked here, alike with every engine: Podman needs systemd to ask by itself.
        here = [f"--name={container.name}", "--detach", "--network=host", "--no-healthcheck"]
        try:
            engine.run("run", *here, *run_options(service), *chosen, image)
            yield container
        finally:
            engine.try_out("rm", "--force", container.name)

    @property
    def grace_s(self) -> float:
        """Seconds that a stop leaves before the container is killed."""
        return seconds(self.service["stop_grace_period"])

    def wait_until_healthy(self) -> float:
        """Return the seconds from the start until the service's health check passed in the container.

        Raises:
            EngineError: it has ended, or an engine would call it unhealthy by then.
        """
        check = self.service["healthcheck"]
        kind, *command = check["test"]
        if kind != "CMD":
            raise ComposeError(f"healthcheck is {kind}; allowed here: CMD")
        # From then on an engine would call a silent server unhealthy.
        allowed_s = seconds(check["start_period"]) + int(check["retries"]) * seconds(check["interval"])
        while time.monotonic() < self.started + allowed_s:
            if self.engine.succeeds("exec", self.name, *command, timeout_s=seconds(check["timeout"])):
                return time.monotonic() - self.started
            if self._state()["Running"] is not True:
                raise self._failed("has ended")
            time.sleep(POLL_S)
        raise self._failed(f"is not healthy after {allowed_s:g} s")

    def probe(self) -> Mapping[str, Any]:
        """Return how the kernel confines and bounds it, as `containers/probe.py` prints it."""
        printed = self.engine.run("exec", self.name, "python", "-m", "containers.probe")
        found: Mapping[str, Any] = json.loads(printed)
        return found

    def stop(self) -> float:
        """Return the seconds that the stop took.

        Raises:
            EngineError: the server did not end by itself and in order within the grace period.
        """
        began = time.monotonic()
        self.engine.run("stop", "-t", f"{self.grace_s:g}", self.name)
        took_s = time.monotonic() - began
        code = self._state()["ExitCode"]
        if code != 0 or not self._output().rstrip().endswith("Stopped."):
            raise self._failed(f"ended with {code} after {took_s:.1f} s")
        return took_s

    def _output(self) -> str:
        printed = self.engine.try_out("logs", self.name)
        return printed.stdout + printed.stderr if printed else ""

    def _failed(self, how: str) -> EngineError:
        self.engine.report(self._output())
        return EngineError(f"{self.name} {how}; what it printed stands above")

    def _state(self) -> Mapping[str, Any]:
        answer = self.engine.try_out("inspect", "--format", "{{json .State}}", self.name)
        if answer is None or answer.returncode != 0:
            raise EngineError(f"{self.name} is gone: {answer.stderr.strip() if answer else 'no answer'}")
        state: Mapping[str, Any] = json.loads(answer.stdout)
        return state
