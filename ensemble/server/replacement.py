"""Instances of a model that are started anew, while Triton and the others of them go on."""

import os
import signal
import threading
import time
from collections.abc import Iterable
from contextlib import suppress

import tritonclient.grpc as triton

from ensemble.server.embedded_server import EmbeddedServer
from ensemble.server.node_process import Fate, NodeProcess

GONE_S = 10.0
"""After so long without a process of what is loaded, Triton is taken to wait for it for ever."""
DRAIN_S = 2.0
"""For the requests that the old processes of a group still compute."""

Fates = dict[str, Fate]
"""What became of instances, by their names."""


class Replacement:
    """Instances of a model that are started anew."""

    def __init__(self, server: EmbeddedServer, model: str, fates: Fates) -> None:
        self._server = server
        self._model = model
        self._instances = fates
        self._groups = {_group_of(instance) for instance in fates}
        self._is_missing = Fate.MISSING in fates.values()
        self._load_began: float | None = None
        self._seen = 0.0

    def waits_in_vain(self, nodes: Iterable[NodeProcess], now: float) -> bool:
        """Return whether Triton has waited for long while no process of these instances runs: for a new one
        that died or was stopped before it said anything, or for an old one that died with a lock in its
        hands. Nothing but the server's own end ends that."""
        own = (node for node in nodes if node.model == self._model)
        if any(node.runs for node in own if self._is_missing or node.instance in self._instances):
            self._seen = now
        began = self._load_began
        return began is not None and now - max(began, self._seen) >= GONE_S

    def attempt(self, ended: threading.Event) -> None:
        """Start them, once. Raises `InferenceServerException` if they do not start."""
        with self._server.client() as client:
            if self._is_missing:
                self._load(client)
                return
            old = {
                node.pid: node.instance
                for node in self._server.processes()
                if node.model == self._model and _group_of(node.instance) in self._groups
            }
            for pid, instance in old.items():
                if instance in self._instances:
                    _kill(pid)
            self._swap(client)
            if any(node.pid in old for node in self._server.processes()):
                ended.wait(DRAIN_S)
                for pid in old:
                    _kill(pid)

    def _swap(self, client: triton.InferenceServerClient) -> None:
        """Take away the groups of dead instances, if others serve meanwhile, and put new ones there."""
        others_serve = self._server.repository.leave_out(self._model, self._groups)
        if others_serve:
            self._load(client)
        self._server.repository.renew(self._model, self._groups)
        try:
            self._load(client)
        except triton.InferenceServerException:
            if others_serve:
                raise
            # Memory may hold one pool of an instance and not two.
            client.unload_model(self._model, headers=self._server.admin_headers)
            self._is_missing = True
            self._load(client)

    def _load(self, client: triton.InferenceServerClient) -> None:
        timeout_s = float(self._server.settings.load_timeout_s)
        self._load_began = time.monotonic()
        try:
            client.load_model(self._model, headers=self._server.admin_headers, client_timeout=timeout_s)
        finally:
            self._load_began = None


def _group_of(instance: str) -> str:
    """The name of the instance group, to which Triton adds a number."""
    return instance.rpartition("_")[0]


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
