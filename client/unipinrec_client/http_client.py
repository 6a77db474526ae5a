"""Clients over HTTP."""

import asyncio
import os
import ssl
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import aiohttp
import gevent
import gevent.monkey
import tritonclient.http
import tritonclient.http.aio
from geventhttpclient.response import HTTPConnectionClosed, HTTPParseError
from tritonclient.utils import InferenceServerException

from unipinrec_client.address import http_address
from unipinrec_client.client import AsyncClient, Client, Connection, to_arrays, to_inputs, told_timeout
from unipinrec_client.errors import DeadlineExceededError, RecommendError, UnavailableError
from unipinrec_client.routing import with_routing
from unipinrec_client.wire import Arrays


class _HttpConnection(Connection):
    def _address(self, url: str, ssl: bool) -> str:
        return http_address(url, ssl=ssl)

    def _infer_arguments(
        self, model: str, arrays: Arrays, request_id: str, timeout_s: float
    ) -> dict[str, Any]:
        return {
            "model_name": model,
            "request_id": request_id,
            "inputs": to_inputs(arrays, tritonclient.http.InferInput),
            "timeout": told_timeout(timeout_s),
            # A copy, because the library writes the size of this request's header into it.
            "headers": with_routing(self.headers, arrays.get("USER_ID")),
        }

    def _failure(self, error: Exception) -> RecommendError:
        lost = (HTTPConnectionClosed, aiohttp.ClientConnectionError, aiohttp.ClientPayloadError)
        if isinstance(error, lost) and not isinstance(error, TimeoutError):
            return UnavailableError(f"no connection: {error}")
        if isinstance(error, (HTTPParseError, aiohttp.ClientResponseError)):
            return UnavailableError(
                f"url is {self.url!r}, where no HTTP is spoken; allowed: the server's port for HTTP"
            )
        return super()._failure(error)


class HttpClient(_HttpConnection, Client):
    """A blocking client over HTTP, with one connection per calling thread, in each process.

    Threads cannot share tritonclient's HTTP client. `close` closes the calling thread's connection at
    once; another thread's closes when that thread ends.
    """

    def close(self) -> None:
        """Close the connection; later calls raise `RuntimeError`."""
        self._closed = True
        connections_of_this_thread().drop(self)

    def _connect(self) -> Any:
        return tritonclient.http.InferenceServerClient(
            self.url,
            connection_timeout=self.timeout_s,
            network_timeout=self.timeout_s,
            ssl=self.ssl,
            ssl_options={} if self.root_certificates is None else {"ca_certs": self.root_certificates},
        )

    def _infer(self, model: str, arrays: Arrays, request_id: str, timeout_s: float) -> Arrays:
        with self._connection(timeout_s) as triton:
            return to_arrays(triton.infer(**self._infer_arguments(model, arrays, request_id, timeout_s)))

    def _model_ready(self, timeout_s: float) -> bool:
        with self._connection(timeout_s) as triton:
            return bool(triton.is_model_ready(self.model, headers=dict(self.headers)))

    @contextmanager
    def _connection(self, timeout_s: float) -> Iterator[Any]:
        """The thread's connection for at most `timeout_s` seconds.

        The library's own timeouts bound each address tried and each read, not the whole call. The timer is
        gevent's, outside `Exception`, because the library takes a `TimeoutError` for one bad address among
        several and goes on with the next.
        """
        connections = connections_of_this_thread()
        triton = connections.get(self, self._connect)
        with gevent.Timeout(timeout_s) as timer:
            try:
                yield triton
            except InferenceServerException:
                raise
            except BaseException as error:
                # Interrupted while it sends, the library never gives the connection back: the next request
                # would wait for it for ever.
                connections.drop(self)
                if error is timer:
                    raise DeadlineExceededError(f"no answer within {timeout_s:.3f} s") from None
                raise


class AsyncHttpClient(_HttpConnection, AsyncClient):
    """A client over HTTP for asyncio."""

    def _connect(self) -> Any:
        context = ssl.create_default_context(cafile=self.root_certificates) if self.ssl else None
        return tritonclient.http.aio.InferenceServerClient(
            self.url,
            # Callers bound their concurrency; beyond a limit here, requests would wait unseen.
            conn_limit=0,
            conn_timeout=self.timeout_s,
            ssl=self.ssl,
            ssl_context=context,
        )

    async def _infer(self, model: str, arrays: Arrays, request_id: str, timeout_s: float) -> Arrays:
        async with asyncio.timeout(timeout_s):
            return to_arrays(
                await self._connected().infer(**self._infer_arguments(model, arrays, request_id, timeout_s))
            )

    async def _model_ready(self, timeout_s: float) -> bool:
        async with asyncio.timeout(timeout_s):
            return bool(await self._connected().is_model_ready(self.model, headers=dict(self.headers)))


class ThreadConnections:
    """tritonclient's HTTP clients that one thread uses, one for each of our clients.

    They close when the thread ends, and with them the thread's gevent hub, which nothing else frees: it
    would leave four file descriptors behind for each thread that ever sent a request.
    """

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._triton_by_client: weakref.WeakKeyDictionary[object, Any] = weakref.WeakKeyDictionary()
        # Where gevent has replaced threading, "threads" are greenlets that share one hub.
        ends_with_thread = not gevent.monkey.is_module_patched("threading")
        is_main = threading.current_thread() is threading.main_thread()
        self._hub = gevent.get_hub() if ends_with_thread and not is_main else None

    def get(self, client: object, connect: Callable[[], Any]) -> Any:
        """Return the connection of `client` in this thread, made by `connect` on first use."""
        triton = self._triton_by_client.get(client)
        if triton is None:
            triton = self._triton_by_client[client] = connect()
        return triton

    def drop(self, client: object) -> None:
        """Close the connection of `client` in this thread, if there is one."""
        triton = self._triton_by_client.pop(client, None)
        if triton is not None:
            triton.close()

    def __del__(self) -> None:
        if self.pid != os.getpid():
            # The child of a fork closes its copies of the sockets with the last references to them, which
            # the parent does not notice. The hub is that of the child's own thread.
            return
        for client in list(self._triton_by_client):
            self.drop(client)
        if self._hub is not None:
            self._hub.destroy()
            # gevent may have lost sight of the thread's hub before this runs; closing then made another.
            gevent.get_hub().destroy()


class _Local(threading.local):
    """Runs once in each thread that looks at it."""

    def __init__(self) -> None:
        self.connections = ThreadConnections()


_local = _Local()


def connections_of_this_thread() -> ThreadConnections:
    """Return the calling thread's connections. The child of a fork shares the sockets of the thread that
    forked, so it gets connections of its own."""
    if _local.connections.pid != os.getpid():
        gevent.reinit()
        _local.connections = ThreadConnections()
    return _local.connections
