"""Keeps every node alive: Triton 2.51 never revives one whose process has died."""

import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Self

import tritonclient.grpc as triton

from ensemble.server.embedded_server import Canary, EmbeddedServer, failure_of

DEAD_NODE = re.compile(r"Stub process '(?P<instance>[^']+)' is not healthy")
TIMED_OUT = "Deadline Exceeded"
SILENT_ROUNDS = 2
"""After so many rounds without an answer, a node that no request waits for is taken for dead."""
INDEX_TIMEOUT_S = 10.0
DRAIN_S = 2.0
"""For the requests that the old instances still compute."""

# A model that cannot be loaded is tried again, and not in every round: each attempt starts a process.
ROUNDS_BETWEEN_LOADS = 15


class Watchdog:
    """A thread that runs canaries and loads a node again when its process has died.

    Triton 2.51 never revives a dead node by itself, and takes loading a loaded model for done. Given a
    configuration that differs, it starts all instances of the model anew, and only then turns to them: those
    that live answer until then. Other models keep their processes. Canaries that fail while every model is
    loaded and alive, as under overload, are reported but reload nothing.
    """

    def __init__(
        self,
        server: EmbeddedServer,
        canaries: Iterable[Canary],
        *,
        beside: Mapping[str, Canary] | None = None,
        report: Callable[[str], None],
        interval_s: float = 2.0,
    ) -> None:
        """Each round goes through `canaries` anew, and through `beside`, canaries of nodes that no request
        waits for, by model: one of these that hangs is replaced, as one that is dead. `report` gets a line
        for each finding; `interval_s` is in seconds between rounds."""
        self._server = server
        self._canaries = canaries
        self._beside = beside or {}
        self._report = report
        self._interval_s = interval_s
        self._failures = 0
        self._silent: dict[str, int] = {}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        # A reload under way ends with the server, which is stopped next, so it is not waited for.
        self._thread.join(timeout=1.0)

    def _run(self) -> None:
        with self._server.client() as client:
            while not self._stopped.wait(self._interval_s):
                try:
                    self._round(client)
                except Exception as error:  # The thread must outlive whatever a round meets.
                    # Of a server that has died the launcher tells, and stops this thread.
                    if not self._stopped.wait(1.0):
                        self._tell(f"watchdog: {error}")

    def _round(self, client: triton.InferenceServerClient) -> None:
        failures = [failure for canary in self._canaries if (failure := failure_of(canary, client))]
        beside = {model: failure_of(canary, client) or "" for model, canary in self._beside.items()}
        failures += filter(None, beside.values())
        silent = [model for model, failure in beside.items() if TIMED_OUT in failure]
        self._silent = {model: self._silent.get(model, 0) + 1 for model in silent}
        if not failures:
            if self._failures > 1:
                self._tell("watchdog: canaries are answered again")
            self._failures = 0
            return
        self._failures += 1
        dead = dead_models(failures, self._server.models)
        hung = [model for model, rounds in self._silent.items() if rounds >= SILENT_ROUNDS]
        with self._server.changing:
            if dead:
                self._revive(client, dead, "died")
            elif hung:
                self._revive(client, hung, "hung")
            elif self._failures == 2 or self._failures % ROUNDS_BETWEEN_LOADS == 0:
                self._load_missing(client, failures[0])

    def _revive(self, client: triton.InferenceServerClient, models: Sequence[str], fate: str) -> None:
        began = time.monotonic()
        for model in models:
            before = self._server.node_processes(model)
            self._replace(client, model)
            # Triton waits in vain for the dead instance, and leaves the others running with their memory.
            self._stopped.wait(DRAIN_S)
            for pid in before:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self._failures = 0
        self._silent = {}
        self._tell(f"watchdog: {', '.join(models)} {fate}; loaded again in {time.monotonic() - began:.1f} s")

    def _replace(self, client: triton.InferenceServerClient, model: str) -> None:
        """Start the model's instances anew, beside the old ones if they fit."""
        self._server.repository.renew(model)
        try:
            self._load(client, model)
        except triton.InferenceServerException as error:
            self._tell(f"watchdog: {model} does not start beside its old processes ({error}); in their place")
            client.unload_model(model, headers=self._server.admin_headers)
            self._load(client, model)

    def _load_missing(self, client: triton.InferenceServerClient, failure: str) -> None:
        headers = self._server.admin_headers
        index = client.get_model_repository_index(headers=headers, client_timeout=INDEX_TIMEOUT_S).models
        absent = {model.name for model in index if model.state != "READY"}
        missing = [model for model in self._server.models if model in absent]
        remedy = f"; loading {', '.join(missing)}" if missing else ""
        self._tell(f"watchdog: canary failed {self._failures} times: {failure}{remedy}")
        for model in missing:
            self._load(client, model)

    def _load(self, client: triton.InferenceServerClient, model: str) -> None:
        timeout_s = float(self._server.settings.load_timeout_s)
        client.load_model(model, headers=self._server.admin_headers, client_timeout=timeout_s)

    def _tell(self, line: str) -> None:
        if not self._stopped.is_set():
            self._report(line)


def dead_models(failures: Sequence[str], models: Iterable[str]) -> list[str]:
    """Return those of `models` that the failures name as having a dead process. Triton names the instance, as
    `ranking_0_1`: the longest model name that starts it is the model."""
    instances = {match["instance"] for failure in failures for match in DEAD_NODE.finditer(failure)}
    owners = [[model for model in models if instance.startswith(f"{model}_")] for instance in instances]
    return sorted({max(candidates, key=len) for candidates in owners if candidates})
