"""Loads and unloads models of a running server, and says what they do."""

import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Self

import tritonclient.grpc as triton

from ensemble.server.embedded_server import NO_PROXY, EmbeddedServer
from ensemble.server.readiness import forget_failure
from ensemble.server.server_error import ServerError

ASK_TIMEOUT_S = 10.0
POLL_S = 0.05
QUIET_S = 1.0
"""For which no count of requests may change until nodes are taken for idle."""


class ModelLoader:
    """A connection to the process that the server has now, and to none that takes its place."""

    def __init__(self, server: EmbeddedServer) -> None:
        self._server = server
        self._pid = server.pid
        # A server's own clients give up connecting sooner than a busy machine may take to answer.
        self._client = triton.InferenceServerClient(server.grpc_url, channel_args=[NO_PROXY])
        self.repository = server.repository
        """What it loads from; that of another process lies elsewhere."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    @property
    def client(self) -> triton.InferenceServerClient:
        """Raises `ServerError` if the server was started again meanwhile."""
        if self._server.pid != self._pid:
            raise ServerError("the server was started again meanwhile")
        return self._client

    def load(self, model: str, beside: str | None = None) -> None:
        """Load what the repository says of a model, and return when callers get it. Its processes give way as
        those of `beside` do, from their first moment on: imports and the like are most of a start. Raises
        `ServerError`."""
        timeout_s = float(self._server.settings.load_timeout_s)
        with _one_line(f"{model} does not load"), self._giving_way(model, beside):
            self.client.load_model(model, headers=self._server.admin_headers, client_timeout=timeout_s)

    def unload(self, model: str, timeout_s: float) -> None:
        """Refuse requests to a model, wait for those that it has, and end its processes, also one that has
        not answered within `timeout_s`. Raises `ServerError`."""
        processes = self._server.node_processes(model)
        headers, deadline = self._server.admin_headers, time.monotonic() + timeout_s
        with _one_line(f"{model} does not unload"):
            self.client.unload_model(model, headers=headers)
            while model in self.loaded() and time.monotonic() < deadline:
                time.sleep(POLL_S)
        # Triton waits in vain for an instance that has died, and leaves the others running.
        for pid in set(processes) & set(self._server.node_processes(model)):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with _one_line(f"{model} does not unload"):
            if any(found.name == model and found.reason not in ("", "unloaded") for found in self._index()):
                forget_failure(self._server, self.client, model)

    def loaded(self) -> set[str]:
        """Return the names of the models that are loaded or still answer. Raises `ServerError`."""
        with _one_line("the server does not say what is loaded"):
            return {model.name for model in self._index() if model.state in ("READY", "UNLOADING")}

    def until_idle(self, models: Iterable[str], timeout_s: float) -> None:
        """Wait until none of the models answers anything any more, or `timeout_s` has gone by."""
        models, deadline = list(models), time.monotonic() + timeout_s
        before = self._answered(models)
        while time.monotonic() < deadline:
            time.sleep(QUIET_S)
            after = self._answered(models)
            if after == before:
                return
            before = after

    @contextmanager
    def _giving_way(self, model: str, beside: str | None) -> Iterator[None]:
        processes = self._server.node_processes(beside) if beside else []
        nice = max((os.getpriority(os.PRIO_PROCESS, pid) for pid in processes), default=0)
        if not nice:
            yield
            return
        ended = threading.Event()

        def look() -> None:
            while not ended.wait(POLL_S):
                for pid in self._server.node_processes(model):
                    with suppress(ProcessLookupError):
                        os.setpriority(os.PRIO_PROCESS, pid, nice)

        thread = threading.Thread(target=look, name=f"{model} gives way")
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _index(self) -> list[Any]:
        asked = {"headers": self._server.admin_headers, "client_timeout": ASK_TIMEOUT_S}
        return list(self.client.get_model_repository_index(**asked).models)

    def _answered(self, models: Iterable[str]) -> list[int]:
        headers = self._server.admin_headers
        with _one_line("the server does not say what it has answered"):
            found = [
                self.client.get_inference_statistics(model, headers=headers, client_timeout=ASK_TIMEOUT_S)
                for model in models
            ]
        counts = [stats.inference_stats for answer in found for stats in answer.model_stats]
        return [count.success.count + count.fail.count for count in counts]


@contextmanager
def _one_line(what: str) -> Iterator[None]:
    try:
        yield
    except triton.InferenceServerException as error:
        raise ServerError(f"{what}: {error.message().strip().partition(chr(10))[0]}") from error
