"""What every client offers, whatever the transport."""

import os
import re
import secrets
import ssl as tls
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Real
from typing import Any, Self

from unipinrec_client.errors import RecommendError, translate
from unipinrec_client.items import (
    ITEM_RANKS,
    ITEM_TYPES,
    UPDATE_ITEMS,
    Item,
    ItemOutcome,
    decode_items,
    encode_items,
    encode_removals,
)
from unipinrec_client.retry import RetryPolicy
from unipinrec_client.types import AppendRequest, AppendResponse, RecommendRequest, RecommendResponse
from unipinrec_client.wire import (
    APPEND_RANKS,
    OUTPUT_RANKS,
    TRITON_TYPES,
    Arrays,
    decode,
    decode_append,
    encode,
    encode_append,
)

DEFAULT_RETRY = RetryPolicy()

APPEND_EVENTS = "append_events"
"""The model that takes events, whichever is asked for recommendations."""

LONGEST_TIMEOUT_S = 365 * 24 * 3600
"""A year. gRPC takes a deadline that it cannot represent for one that has passed."""

_HEADER_NAME = re.compile(r"[0-9A-Za-z_.-]+")


class Connection:
    """Where the server is and how to talk to it.

    `url` is `host:port`, alone or after `http://` (`https://` with `ssl`), for HTTP optionally followed by a
    path, for gRPC also one of its own targets (`dns:///host:port`). `timeout_s` bounds one call in seconds,
    with all its retries and waits; the server is told what is left of it, and computes nothing after that.
    `headers` go with every request: gRPC metadata or HTTP headers. `ssl` encrypts the connection;
    `root_certificates` is then a PEM file of the authorities to trust instead of the system's.

    Raises `ValueError` for a url or headers of another form, a `timeout_s` out of range, and
    `root_certificates` without `ssl` or without certificates.
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
        self.url = self._address(url, ssl)
        check_timeout(timeout_s)
        _check_root_certificates(root_certificates, ssl)
        _check_headers(headers or {})
        self.model = model
        self.timeout_s = float(timeout_s)
        self.retry = retry
        self._budget = retry.new_budget()
        self.headers = dict(headers or {})
        self.ssl = ssl
        self.root_certificates = root_certificates
        self._closed = False
        self._prepare()

    @abstractmethod
    def _address(self, url: str, ssl: bool) -> str:
        """The url as the transport takes it; raises `ValueError` for another."""

    def _prepare(self) -> None:
        """Make what a transport needs before its first call."""

    def _check_usable(self) -> None:
        if self._closed:
            raise RuntimeError("the client is closed")

    def _failure(self, error: Exception) -> RecommendError:
        """Return what the caller gets for an exception of the transport."""
        return translate(error)

    @contextmanager
    def _failures(self) -> Iterator[None]:
        # Transports and the libraries below them raise more than anyone can list.
        try:
            yield
        except RecommendError:
            raise
        except Exception as error:
            raise self._failure(error) from error


class Client(Connection, ABC):
    """A blocking client. All methods may be called from several threads at once."""

    def recommend(self, request: RecommendRequest, *, request_id: str | None = None) -> RecommendResponse:
        """Return the recommendations for one user; raises as `recommend_many` does."""
        return self.recommend_many([request], request_id=request_id)[0]

    def recommend_many(
        self, requests: Iterable[RecommendRequest], *, request_id: str | None = None
    ) -> tuple[RecommendResponse, ...]:
        """Return the recommendations for several users, in their order, from one Triton request.

        The server takes at most 16 users at a time. `request_id` names the call in the server's logs and
        traces; None makes one up, which the responses and errors carry.

        Raises `ValueError` for values without an encoding, `InvalidRequestError` for values the server
        refuses, `UnavailableError` if it cannot be reached or is overloaded after all attempts,
        `DeadlineExceededError` after `timeout_s`, and `RecommendError` for everything else.
        """
        self._check_usable()
        requests = tuple(requests)
        arrays = encode(requests)
        with _named(request_id) as name:
            return decode(self._call(self.model, arrays, name), requests, name)

    def append_events(self, request: AppendRequest, *, request_id: str | None = None) -> AppendResponse:
        """Add events to one user's stored history; raises as `append_events_many` does."""
        return self.append_events_many([request], request_id=request_id)[0]

    def append_events_many(
        self, requests: Iterable[AppendRequest], *, request_id: str | None = None
    ) -> tuple[AppendResponse, ...]:
        """Add events to the stored histories of several users, of all or of none, from one Triton request.
        When it returns they are on the server's disk, and the users' next recommendations know them.

        The server takes at most 256 users at a time. An event is stored once however often it is sent, so
        that a call that failed or timed out, whose events may be stored or not, can be made again.

        Raises as `recommend_many` does, and `RecommendError` where the server takes no events.
        """
        self._check_usable()
        requests = tuple(requests)
        arrays = encode_append(requests)
        with _named(request_id) as name:
            return decode_append(self._call(APPEND_EVENTS, arrays, name), requests, name)

    def put_items(self, items: Iterable[Item], *, request_id: str | None = None) -> tuple[ItemOutcome, ...]:
        """Add items, or update them where they are known, all or none, from one Triton request. When it
        returns they are on the server's disk, and recommendations that are asked for from then on know them.

        The server takes at most 256 at a time. What is put again as it is stays `unchanged`, so that a call
        that failed or timed out can be made again.

        Raises as `recommend_many` does, and `RecommendError` where the server takes no items.
        """
        items = tuple(items)
        return self._update(encode_items(items), [item.item_id for item in items], request_id)

    def remove_items(
        self, item_ids: Iterable[int], *, request_id: str | None = None
    ) -> tuple[ItemOutcome, ...]:
        """Remove items, as `put_items` adds them: what is recommended from then on has none of them."""
        item_ids = tuple(item_ids)
        return self._update(encode_removals(item_ids), item_ids, request_id)

    def _update(
        self, arrays: Arrays, item_ids: Sequence[int], request_id: str | None
    ) -> tuple[ItemOutcome, ...]:
        self._check_usable()
        with _named(request_id) as name:
            return decode_items(self._call(UPDATE_ITEMS, arrays, name), item_ids, name)

    def ready(self) -> bool:
        """Return whether the server can be reached and reports the model as ready.

        This is the server's opinion of itself: it stays true when a node's process has died. Only a
        recommendation proves that recommending works.
        """
        self._check_usable()
        try:
            with self._failures():
                return self._model_ready(self.timeout_s)
        except RecommendError:
            return False

    @abstractmethod
    def close(self) -> None:
        """Close the connection; later calls raise `RuntimeError`."""

    def _call(self, model: str, arrays: Arrays, request_id: str) -> Arrays:
        """The outputs of a model, asked again where that may help."""

        def attempt(seconds: float) -> Arrays:
            with self._failures():
                return self._infer(model, arrays, request_id, seconds)

        return self.retry.call(attempt, self.timeout_s, self._budget)

    @abstractmethod
    def _infer(self, model: str, arrays: Arrays, request_id: str, timeout_s: float) -> Arrays: ...

    @abstractmethod
    def _model_ready(self, timeout_s: float) -> bool: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncClient(Connection, ABC):
    """A client for asyncio. It connects on first use and belongs to the event loop of that moment."""

    _triton: Any = None
    _connected_in: int | None = None

    async def recommend(
        self, request: RecommendRequest, *, request_id: str | None = None
    ) -> RecommendResponse:
        """Return the recommendations for one user; raises as `Client.recommend_many` does."""
        return (await self.recommend_many([request], request_id=request_id))[0]

    async def recommend_many(
        self, requests: Iterable[RecommendRequest], *, request_id: str | None = None
    ) -> tuple[RecommendResponse, ...]:
        """Return the recommendations for several users, as `Client.recommend_many` does."""
        self._check_usable()
        requests = tuple(requests)
        arrays = encode(requests)
        with _named(request_id) as name:
            return decode(await self._call(self.model, arrays, name), requests, name)

    async def append_events(self, request: AppendRequest, *, request_id: str | None = None) -> AppendResponse:
        """Add events to one user's stored history, as `Client.append_events_many` does."""
        return (await self.append_events_many([request], request_id=request_id))[0]

    async def append_events_many(
        self, requests: Iterable[AppendRequest], *, request_id: str | None = None
    ) -> tuple[AppendResponse, ...]:
        """Add events to stored histories, as `Client.append_events_many` does."""
        self._check_usable()
        requests = tuple(requests)
        arrays = encode_append(requests)
        with _named(request_id) as name:
            return decode_append(await self._call(APPEND_EVENTS, arrays, name), requests, name)

    async def put_items(
        self, items: Iterable[Item], *, request_id: str | None = None
    ) -> tuple[ItemOutcome, ...]:
        """Add or update items, as `Client.put_items` does."""
        items = tuple(items)
        return await self._update(encode_items(items), [item.item_id for item in items], request_id)

    async def remove_items(
        self, item_ids: Iterable[int], *, request_id: str | None = None
    ) -> tuple[ItemOutcome, ...]:
        """Remove items, as `Client.remove_items` does."""
        item_ids = tuple(item_ids)
        return await self._update(encode_removals(item_ids), item_ids, request_id)

    async def _update(
        self, arrays: Arrays, item_ids: Sequence[int], request_id: str | None
    ) -> tuple[ItemOutcome, ...]:
        self._check_usable()
        with _named(request_id) as name:
            return decode_items(await self._call(UPDATE_ITEMS, arrays, name), item_ids, name)

    async def ready(self) -> bool:
        """Return whether the server reports the model as ready, which `Client.ready` says the limits of."""
        self._check_usable()
        try:
            with self._failures():
                return await self._model_ready(self.timeout_s)
        except RecommendError:
            return False

    async def close(self) -> None:
        """Close the connection; later calls raise `RuntimeError`."""
        self._closed = True
        # The child of a fork shares the parent's sockets, and what watches them: it leaves them alone.
        if self._connected_in == os.getpid():
            await self._triton.close()

    def _check_usable(self) -> None:
        super()._check_usable()
        if self._connected_in not in (None, os.getpid()):
            raise RuntimeError(
                f"the client connected before a fork, in process {self._connected_in};"
                " make one in each process"
            )

    def _connected(self) -> Any:
        if self._triton is None:
            self._triton = self._connect()
            self._connected_in = os.getpid()
        return self._triton

    @abstractmethod
    def _connect(self) -> Any: ...

    async def _call(self, model: str, arrays: Arrays, request_id: str) -> Arrays:
        """The outputs of a model, asked again where that may help."""

        async def attempt(seconds: float) -> Arrays:
            with self._failures():
                return await self._infer(model, arrays, request_id, seconds)

        return await self.retry.call_async(attempt, self.timeout_s, self._budget)

    @abstractmethod
    async def _infer(self, model: str, arrays: Arrays, request_id: str, timeout_s: float) -> Arrays: ...

    @abstractmethod
    async def _model_ready(self, timeout_s: float) -> bool: ...

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def check_timeout(seconds: float) -> None:
    """Raise `ValueError` unless it is a number of seconds that every transport can wait."""
    if not isinstance(seconds, Real) or not 0 < seconds <= LONGEST_TIMEOUT_S:
        raise ValueError(
            f"timeout_s is {seconds!r}; allowed: more than 0, at most {LONGEST_TIMEOUT_S} (a year)"
        )


def _check_headers(headers: Mapping[str, str]) -> None:
    for name, value in headers.items():
        if not isinstance(name, str) or not _HEADER_NAME.fullmatch(name):
            raise ValueError(f"headers has the name {name!r}; allowed: letters, digits, `-`, `_` and `.`")
        # The value may be a secret.
        if not isinstance(value, str) or not (value.isascii() and value.isprintable()):
            raise ValueError(f"headers[{name!r}] has a {type(value).__name__}; allowed: printable ASCII text")


def _check_root_certificates(path: str | None, ssl: bool) -> None:
    if path is None:
        return
    if not ssl:
        raise ValueError(f"root_certificates is {path!r}; allowed: None unless ssl is True")
    try:
        tls.create_default_context(cafile=path)
    except OSError as error:
        raise ValueError(
            f"root_certificates is {path!r}; allowed: a PEM file of certificates; {error}"
        ) from None


@contextmanager
def _named(request_id: str | None) -> Iterator[str]:
    """The id of one call, which errors inside get too."""
    if not isinstance(request_id, str | None):
        raise ValueError(f"request_id is {request_id!r}; allowed: text, or None for a random one")
    name = request_id or secrets.token_hex(8)
    try:
        yield name
    except RecommendError as error:
        error.request_id = name
        # The server's nodes say it in their text, for clients without such a field.
        error.args = (str(error).removesuffix(f" [request {name[:128]}]"),)
        raise


def told_timeout(timeout_s: float) -> int:
    """Return the microseconds that a request tells the server its caller waits."""
    return max(1, round(1e6 * timeout_s))


def to_inputs(arrays: Arrays, input_type: Any) -> list[Any]:
    """Return the tensors as objects of tritonclient's `InferInput`, the gRPC or the HTTP one."""
    inputs = []
    for name, array in arrays.items():
        tensor = input_type(name, array.shape, (TRITON_TYPES | ITEM_TYPES)[name])
        tensor.set_data_from_numpy(array)
        inputs.append(tensor)
    return inputs


def to_arrays(result: Any) -> Arrays:
    """Return the outputs of tritonclient's `InferResult` by name, None for a missing one."""
    return {name: result.as_numpy(name) for name in (*OUTPUT_RANKS, *APPEND_RANKS, *ITEM_RANKS)}
