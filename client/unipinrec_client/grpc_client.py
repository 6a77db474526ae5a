"""Clients over gRPC."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import tritonclient.grpc
import tritonclient.grpc.aio

from unipinrec_client.address import grpc_target, is_this_machine, may_be_several_servers
from unipinrec_client.client import AsyncClient, Client, Connection, to_arrays, to_inputs, told_timeout
from unipinrec_client.routing import with_routing
from unipinrec_client.wire import Arrays

# gRPC waits a second and more before it connects again, and fails every call until then: retries within
# a call's timeout would all meet the same broken connection.
_CHANNEL_ARGUMENTS: tuple[tuple[str, int | str], ...] = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 1000),
)


_REMEDY = "fork while no call is under way, start the process with `spawn`, or use HttpClient"
_ASYNCIO_REMEDY = "fork before the first use, start the process with `spawn`, or use another client"


@dataclass(slots=True)
class GrpcUse:
    """How this process uses gRPC, and what the use before a fork has broken.

    gRPC gets ready for a fork only while no thread is calling. Otherwise the child's calls, and closing an
    inherited connection, last for ever, whatever their deadlines. Of asyncio, one thread reads the answers
    for all event loops of a process: a child does not have it, and gRPC starts no other.
    """

    calls: set[object] = field(default_factory=set)
    """Calls that threads are waiting for. A set needs no lock, which a fork could leave taken for ever."""
    broken_by: str = ""
    """Why blocking calls would never be answered; empty if they are."""
    with_asyncio: bool = False
    asyncio_broken_by: str = ""

    def begin_in_child(self) -> None:
        """Note what the fork has broken."""
        if self.calls:
            self.broken_by = (
                f"calls under way at a fork are {len(self.calls)}; allowed with gRPC: 0; {_REMEDY}"
            )
        if self.with_asyncio:
            self.asyncio_broken_by = f"gRPC was used with asyncio before a fork; {_ASYNCIO_REMEDY}"
        self.calls.clear()
        self.with_asyncio = False

    @contextmanager
    def call(self) -> Iterator[None]:
        """Note that the thread is in a blocking call."""
        call = object()
        self.calls.add(call)
        try:
            yield
        finally:
            self.calls.discard(call)

    def check(self) -> None:
        """Raise `RuntimeError` where blocking calls are never answered."""
        if self.broken_by:
            raise RuntimeError(self.broken_by)

    def check_asyncio(self) -> None:
        """Note that gRPC is used with asyncio; raise `RuntimeError` in a child of a process that did so."""
        if self.asyncio_broken_by:
            raise RuntimeError(self.asyncio_broken_by)
        self.with_asyncio = True


grpc_use = GrpcUse()
os.register_at_fork(after_in_child=grpc_use.begin_in_child)


class _GrpcConnection(Connection):
    def _address(self, url: str, ssl: bool) -> str:
        return grpc_target(url, ssl=ssl)

    def _triton_options(self) -> dict[str, Any]:
        return {
            "url": self.url,
            "ssl": self.ssl,
            "root_certificates": self.root_certificates,
            "channel_args": channel_arguments(self.url),
        }

    def _infer_arguments(
        self, model: str, arrays: Arrays, request_id: str, timeout_s: float
    ) -> dict[str, Any]:
        return {
            "model_name": model,
            "request_id": request_id,
            "inputs": to_inputs(arrays, tritonclient.grpc.InferInput),
            "headers": _metadata(with_routing(self.headers, arrays.get("USER_ID"))),
            "timeout": told_timeout(timeout_s),
            "client_timeout": timeout_s,
        }

    def _ready_arguments(self, timeout_s: float) -> dict[str, Any]:
        return {"model_name": self.model, "headers": _metadata(self.headers), "client_timeout": timeout_s}


class GrpcClient(_GrpcConnection, Client):
    """A blocking client over gRPC, with one connection for all threads.

    It outlives a fork unless a call was under way. In the child of such a fork, calls and making a client
    raise `RuntimeError`.
    """

    def _prepare(self) -> None:
        # Making a channel may hang, too.
        grpc_use.check()
        self._pid = os.getpid()
        self._triton = tritonclient.grpc.InferenceServerClient(**self._triton_options())

    def _check_usable(self) -> None:
        super()._check_usable()
        grpc_use.check()
        if self._pid != os.getpid():
            # The first call over an inherited connection may fail: gRPC closes what a fork left open.
            self._prepare()

    def close(self) -> None:
        """Close the connection; later calls raise `RuntimeError`."""
        self._closed = True
        if not grpc_use.broken_by:
            self._triton.close()

    def _infer(self, model: str, arrays: Arrays, request_id: str, timeout_s: float) -> Arrays:
        with grpc_use.call():
            return to_arrays(
                self._triton.infer(**self._infer_arguments(model, arrays, request_id, timeout_s))
            )

    def _model_ready(self, timeout_s: float) -> bool:
        with grpc_use.call():
            return bool(self._triton.is_model_ready(**self._ready_arguments(timeout_s)))


class AsyncGrpcClient(_GrpcConnection, AsyncClient):
    """A client over gRPC for asyncio. After a fork none can be used in the child if one was in the parent."""

    def _check_usable(self) -> None:
        grpc_use.check_asyncio()
        super()._check_usable()

    def _connect(self) -> Any:
        return tritonclient.grpc.aio.InferenceServerClient(**self._triton_options())

    async def _infer(self, model: str, arrays: Arrays, request_id: str, timeout_s: float) -> Arrays:
        arguments = self._infer_arguments(model, arrays, request_id, timeout_s)
        return to_arrays(await self._connected().infer(**arguments))

    async def _model_ready(self, timeout_s: float) -> bool:
        return bool(await self._connected().is_model_ready(**self._ready_arguments(timeout_s)))


def channel_arguments(target: str) -> list[tuple[str, int | str]]:
    """Return the options of a channel to `target`, as `grpc_target` returns it.

    A proxy that the environment names is left out on the way to this machine. Calls go in turn to the
    servers that a target of gRPC's own stands for.
    """
    arguments = list(_CHANNEL_ARGUMENTS)
    if is_this_machine(target):
        arguments.append(("grpc.enable_http_proxy", 0))
    if may_be_several_servers(target):
        arguments.append(("grpc.lb_policy_name", "round_robin"))
    return arguments


def _metadata(headers: Mapping[str, str]) -> dict[str, str]:
    # gRPC refuses upper-case keys, which are usual in HTTP.
    return {key.lower(): value for key, value in headers.items()}
