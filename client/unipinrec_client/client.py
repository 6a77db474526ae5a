"""What every client offers, whatever the transport."""

import secrets
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from unipinrec_client.errors import RecommendError
from unipinrec_client.retry import RetryPolicy
from unipinrec_client.types import RecommendRequest, RecommendResponse
from unipinrec_client.wire import OUTPUT_RANKS, TRITON_TYPES, Arrays, decode, encode

DEFAULT_RETRY = RetryPolicy()


class Connection:
    """Where the server is and how to talk to it.

    `url` is `host:port`, alone or after `http://` (`https://` with `ssl`), for HTTP optionally followed by a
    path. `timeout_s` bounds one call in seconds, with all its retries and waits. `headers` go with every
    request: gRPC metadata or HTTP headers. `ssl` encrypts the connection; `root_certificates` is then a PEM
    file of the authorities to trust instead of the system's.

    Raises `ValueError` for a url with another scheme, a `timeout_s` of 0 or less, and `root_certificates`
    without `ssl`.
    """

    def __init__(
        self,
        url: str,
        *,
        model: str = "recommend",
        timeout_s: float = 10.0,
        retry: RetryPolicy = DEFAULT_RETRY,
        headers: Mapping[str, str] | None = None,
        ssl: bool = False,
        root_certificates: str | None = None,
    ) -> None:
        scheme, _, address = url.rpartition("://")
        expected = "https" if ssl else "http"
        if scheme not in ("", expected):
            raise ValueError(f"url is {url!r}; allowed: host:port, alone or after {expected}://")
        if not timeout_s > 0:
            raise ValueError(f"timeout_s is {timeout_s}; allowed: more than 0")
        if root_certificates is not None and not ssl:
            raise ValueError(f"root_certificates is {root_certificates!r}; allowed: None unless ssl is True")
        self.url = address
        self.model = model
        self.timeout_s = timeout_s
        self.retry = retry
        self.headers = dict(headers or {})
        self.ssl = ssl
        self.root_certificates = root_certificates
        self._closed = False
        self._prepare()

    def _prepare(self) -> None:
        """Make what a transport needs before its first call."""

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("the client is closed")


class Client(Connection, ABC):
    """A blocking client. All methods may be called from several threads at once."""

    def recommend(self, request: RecommendRequest, *, request_id: str | None = None) -> RecommendResponse:
        """Return the recommendations for one user; raises as `recommend_many` does."""
        return self.recommend_many([request], request_id=request_id)[0]

    def recommend_many(
        self, requests: Sequence[RecommendRequest], *, request_id: str | None = None
    ) -> tuple[RecommendResponse, ...]:
        """Return the recommendations for several users, in their order, from one Triton request.

        The server takes at most 16 users at a time. `request_id` names the call in the server's logs and
        traces; None makes one up, which the responses and errors carry.

        Raises `ValueError` for values without an encoding, `InvalidRequestError` for values the server
        refuses, `UnavailableError` if it cannot be reached or is overloaded after all attempts,
        `DeadlineExceededError` after `timeout_s`, and `RecommendError` for everything else.
        """
        self._check_open()
        arrays = encode(requests)
        with _named(request_id) as name:
            outputs = self.retry.call(lambda seconds: self._infer(arrays, name, seconds), self.timeout_s)
            return decode(outputs, requests, name)

    def ready(self) -> bool:
        """Return whether the server can be reached and reports the model as ready.

        This is the server's opinion of itself: it stays true when a node's process has died. Only a
        recommendation proves that recommending works.
        """
        self._check_open()
        try:
            return self._model_ready(self.timeout_s)
        except RecommendError:
            return False

    @abstractmethod
    def close(self) -> None:
        """Close the connection; later calls raise `RuntimeError`."""

    @abstractmethod
    def _infer(self, arrays: Arrays, request_id: str, timeout_s: float) -> Arrays: ...

    @abstractmethod
    def _model_ready(self, timeout_s: float) -> bool: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncClient(Connection, ABC):
    """A client for asyncio. It connects on first use and belongs to the event loop of that moment."""

    async def recommend(
        self, request: RecommendRequest, *, request_id: str | None = None
    ) -> RecommendResponse:
        """Return the recommendations for one user; raises as `Client.recommend_many` does."""
        return (await self.recommend_many([request], request_id=request_id))[0]

    async def recommend_many(
        self, requests: Sequence[RecommendRequest], *, request_id: str | None = None
    ) -> tuple[RecommendResponse, ...]:
        """Return the recommendations for several users; see `Client.recommend_many`."""
        self._check_open()
        arrays = encode(requests)
        with _named(request_id) as name:
            outputs = await self.retry.call_async(
                lambda seconds: self._infer(arrays, name, seconds), self.timeout_s
            )
            return decode(outputs, requests, name)

    async def ready(self) -> bool:
        """Return whether the server reports the model as ready; see `Client.ready`."""
        self._check_open()
        try:
            return await self._model_ready(self.timeout_s)
        except RecommendError:
            return False

    @abstractmethod
    async def close(self) -> None:
        """Close the connection; later calls raise `RuntimeError`."""

    @abstractmethod
    async def _infer(self, arrays: Arrays, request_id: str, timeout_s: float) -> Arrays: ...

    @abstractmethod
    async def _model_ready(self, timeout_s: float) -> bool: ...

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


@contextmanager
def _named(request_id: str | None) -> Iterator[str]:
    """The id of one call, which errors inside get too."""
    name = request_id or secrets.token_hex(8)
    try:
        yield name
    except RecommendError as error:
        error.request_id = name
        raise


def to_inputs(arrays: Arrays, input_type: Any) -> list[Any]:
    """Return the tensors as objects of tritonclient's `InferInput`, the gRPC or the HTTP one."""
    inputs = []
    for name, array in arrays.items():
        tensor = input_type(name, array.shape, TRITON_TYPES[name])
        tensor.set_data_from_numpy(array)
        inputs.append(tensor)
    return inputs


def to_arrays(result: Any) -> Arrays:
    """Return the outputs of tritonclient's `InferResult` by name, None for a missing one."""
    return {name: result.as_numpy(name) for name in OUTPUT_RANKS}
