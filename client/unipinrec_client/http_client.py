"""Clients over HTTP."""

import asyncio
import ssl
from typing import Any

import aiohttp
import gevent
import tritonclient.http
import tritonclient.http.aio
from geventhttpclient.response import HTTPConnectionClosed, HTTPParseError
from tritonclient.utils import InferenceServerException

from unipinrec_client.address import http_address
from unipinrec_client.client import AsyncClient, Client, Connection, to_arrays, to_inputs
from unipinrec_client.errors import DeadlineExceededError, RecommendError, UnavailableError, translate
from unipinrec_client.routing import with_routing
from unipinrec_client.thread_connections import connections_of_this_thread
from unipinrec_client.wire import OUTPUT_RANKS, Arrays


class HttpClient(Client):
    """A blocking client over HTTP, with one connection per calling thread, in each process.

    Threads cannot share tritonclient's HTTP client. `close` closes the calling thread's connection at
    once; another thread's closes when that thread ends.
    """

    def _address(self, url: str, ssl: bool) -> str:
        return http_address(url, ssl=ssl)

    def _failure(self, error: Exception) -> RecommendError:
        return _failure(self, error)

    def close(self) -> None:
        """Close the connection; later calls raise `RuntimeError`."""
        self._closed = True
        connections_of_this_thread().drop(self)

    def _infer(self, arrays: Arrays, request_id: str, timeout_s: float) -> Arrays:
        with _Deadline(self, timeout_s) as triton:
            return to_arrays(triton.infer(**_infer_arguments(self, arrays, request_id)))

    def _model_ready(self, timeout_s: float) -> bool:
        with _Deadline(self, timeout_s) as triton:
            return bool(triton.is_model_ready(self.model, headers=dict(self.headers)))


class _Deadline:
    """The thread's connection for at most `timeout_s` seconds, with failures as `RecommendError`.

    The library's own timeouts bound each address tried and each read, not the whole call. The timer is
    gevent's, outside `Exception`, because the library takes a `TimeoutError` for one bad address among
    several and goes on with the next.
    """

    def __init__(self, client: HttpClient, timeout_s: float) -> None:
        self._client = client
        self._timeout_s = timeout_s
        self._timer = gevent.Timeout(timeout_s)

    def __enter__(self) -> Any:
        triton = connections_of_this_thread().get(self._client, lambda: _connect(self._client))
        self._timer.start()
        return triton

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._timer.close()
        if error is None:
            return
        if not isinstance(error, InferenceServerException):
            # Interrupted while it sends, the library never gives the connection back: the next request
            # would wait for it for ever.
            connections_of_this_thread().drop(self._client)
        if error is self._timer:
            raise DeadlineExceededError(f"no answer within {self._timeout_s:.3f} s") from None


class AsyncHttpClient(AsyncClient):
    """A client over HTTP for asyncio."""

    def _address(self, url: str, ssl: bool) -> str:
        return http_address(url, ssl=ssl)

    def _failure(self, error: Exception) -> RecommendError:
        return _failure(self, error)

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

    async def _infer(self, arrays: Arrays, request_id: str, timeout_s: float) -> Arrays:
        async with asyncio.timeout(timeout_s):
            return to_arrays(await self._connected().infer(**_infer_arguments(self, arrays, request_id)))

    async def _model_ready(self, timeout_s: float) -> bool:
        async with asyncio.timeout(timeout_s):
            return bool(await self._connected().is_model_ready(self.model, headers=dict(self.headers)))


def _connect(connection: Connection) -> Any:
    authorities = {} if connection.root_certificates is None else {"ca_certs": connection.root_certificates}
    return tritonclient.http.InferenceServerClient(
        connection.url,
        connection_timeout=connection.timeout_s,
        network_timeout=connection.timeout_s,
        ssl=connection.ssl,
        ssl_options=authorities,
    )


def _infer_arguments(connection: Connection, arrays: Arrays, request_id: str) -> dict[str, Any]:
    return {
        "model_name": connection.model,
        "request_id": request_id,
        "inputs": to_inputs(arrays, tritonclient.http.InferInput),
        # Binary, because JSON is several times as long.
        "outputs": [tritonclient.http.InferRequestedOutput(name, binary_data=True) for name in OUTPUT_RANKS],
        # A copy, because the library writes the size of this request's header into it.
        "headers": with_routing(connection.headers, arrays["USER_ID"]),
    }


def _failure(connection: Connection, error: Exception) -> RecommendError:
    lost = isinstance(
        error, (HTTPConnectionClosed, aiohttp.ClientConnectionError, aiohttp.ClientPayloadError)
    )
    if lost and not isinstance(error, TimeoutError):
        return UnavailableError(f"no connection: {error}")
    if isinstance(error, (HTTPParseError, aiohttp.ClientResponseError)):
        return UnavailableError(
            f"url is {connection.url!r}, where no HTTP is spoken; allowed: the server's port for HTTP"
        )
    return translate(error)
