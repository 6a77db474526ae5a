"""Clients over gRPC."""

from collections.abc import Mapping
from typing import Any

import tritonclient.grpc
import tritonclient.grpc.aio
from tritonclient.utils import InferenceServerException

from unipinrec_client.client import AsyncClient, Client, Connection, to_arrays, to_inputs
from unipinrec_client.errors import translate
from unipinrec_client.routing import with_routing
from unipinrec_client.wire import OUTPUT_RANKS, Arrays

# gRPC waits a second and more before it connects again, and fails every call until then: retries within
# a call's timeout would all meet the same broken connection.
_CHANNEL_ARGUMENTS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 1000),
]


class GrpcClient(Client):
    """A blocking client over gRPC, with one connection for all threads."""

    def _prepare(self) -> None:
        self._triton = tritonclient.grpc.InferenceServerClient(**_triton_options(self))

    def close(self) -> None:
        """Close the connection; later calls raise `RuntimeError`."""
        self._closed = True
        self._triton.close()

    def _infer(self, arrays: Arrays, timeout_s: float) -> Arrays:
        try:
            result = self._triton.infer(**_infer_arguments(self, arrays), client_timeout=timeout_s)
            return to_arrays(result)
        except (InferenceServerException, ValueError) as error:
            raise translate(error) from error

    def _model_ready(self, timeout_s: float) -> bool:
        try:
            return bool(self._triton.is_model_ready(self.model, "", _metadata(self.headers), timeout_s))
        except InferenceServerException as error:
            raise translate(error) from error


class AsyncGrpcClient(AsyncClient):
    """A client over gRPC for asyncio."""

    _triton: Any = None

    async def close(self) -> None:
        """Close the connection; later calls raise `RuntimeError`."""
        self._closed = True
        if self._triton is not None:
            await self._triton.close()

    async def _infer(self, arrays: Arrays, timeout_s: float) -> Arrays:
        try:
            result = await self._connected().infer(**_infer_arguments(self, arrays), client_timeout=timeout_s)
            return to_arrays(result)
        except (InferenceServerException, ValueError) as error:
            raise translate(error) from error

    async def _model_ready(self, timeout_s: float) -> bool:
        try:
            return bool(
                await self._connected().is_model_ready(self.model, "", _metadata(self.headers), timeout_s)
            )
        except InferenceServerException as error:
            raise translate(error) from error

    def _connected(self) -> Any:
        if self._triton is None:
            self._triton = tritonclient.grpc.aio.InferenceServerClient(**_triton_options(self))
        return self._triton


def _triton_options(connection: Connection) -> dict[str, Any]:
    return {
        "url": connection.url,
        "ssl": connection.ssl,
        "root_certificates": connection.root_certificates,
        "channel_args": _CHANNEL_ARGUMENTS,
    }


def _infer_arguments(connection: Connection, arrays: Arrays) -> dict[str, Any]:
    return {
        "model_name": connection.model,
        "inputs": to_inputs(arrays, tritonclient.grpc.InferInput),
        "outputs": [tritonclient.grpc.InferRequestedOutput(name) for name in OUTPUT_RANKS],
        "headers": _metadata(with_routing(connection.headers, arrays["USER_ID"])),
    }


def _metadata(headers: Mapping[str, str]) -> dict[str, str]:
    # gRPC refuses upper-case keys, which are usual in HTTP.
    return {key.lower(): value for key, value in headers.items()}
