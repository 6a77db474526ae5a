"""Sends visits over gRPC or HTTP, from any number of greenlets at once.

Shapes: B visits, N events.
"""

import re
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gevent
import numpy as np
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException
from unipinrec_client.client import to_inputs
from unipinrec_client.errors import RecommendError, translate
from unipinrec_client.grpc_client import channel_arguments
from unipinrec_client.wire import PADDING_ITEM_ID, Arrays

from loadtest.answers import Answer
from loadtest.histories import Int64s
from loadtest.outcomes import OK
from loadtest.plan import LoadPlan, Protocol
from loadtest.traffic import Visit

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
HTTP_OK = "200"
NO_ANSWER, NO_CONNECTION = "DEADLINE_EXCEEDED", "UNAVAILABLE"


@dataclass(frozen=True, slots=True)
class Reply:
    """The server's answer, or what the request failed with."""

    status: str
    kv_source: str = ""
    result: Any = None
    """The answer as it came, unpacked where it is asked for."""

    def answer(self) -> Answer:
        """Return the results of an answered request."""
        names = ("ITEM_IDS", "SCORES", "ACTION_PROBS", "BUNDLE_ID")
        return Answer.of_outputs({name: self.result.as_numpy(name) for name in names})


def tensors_of(visits: Sequence[Visit], num_results: int) -> Arrays:
    """Return the ensemble's inputs: [B,1] for scalars, [B,N] for histories, padded at the end.

    Histories are left out where the first visit has none; all others must have none either.
    """
    arrays: Arrays = {
        "USER_ID": np.array([[visit.user_id.encode()] for visit in visits], np.object_),
        "NUM_RESULTS": np.full((len(visits), 1), num_results, np.int64),
    }
    histories = [visit.history for visit in visits if visit.history is not None]
    if histories:
        arrays |= {
            "HISTORY_ITEM_IDS": _padded([history.item_id_N for history in histories], PADDING_ITEM_ID),
            "HISTORY_ACTIONS": _padded([history.actions_N for history in histories]),
            "HISTORY_TIMESTAMPS": _padded([history.timestamp_N for history in histories]),
            "HISTORY_SURFACES": _padded([history.surface_N for history in histories]),
            "REQUEST_TIME": np.array([[history.request_time] for history in histories], np.int64),
        }
    return arrays


def _padded(rows: Sequence[Int64s], padding: int = 0) -> Int64s:
    array_BN = np.full((len(rows), max(len(row) for row in rows)), padding, np.int64)
    for place, row in enumerate(rows):
        array_BN[place, : len(row)] = row
    return array_BN


class Sender(ABC):
    """A connection to one server. Preparing a request is apart, so that it can be done before it is due.

    All outputs that the server has are asked for, so that servers of other versions answer too.
    """

    def __init__(self, plan: LoadPlan) -> None:
        self._plan = plan
        self._timeout_us = None if plan.deadline_ms is None else round(1e3 * plan.deadline_ms)

    @abstractmethod
    def prepare(self, visit: Visit) -> list[Any]:
        """Return the serialised input tensors."""

    @abstractmethod
    def send(self, prepared: list[Any]) -> Reply:
        """Send, and wait for the reply, at most `timeout_s`; failures are replies too."""


class GrpcSender(Sender):
    """One connection for all greenlets, or threads where `grpc.experimental.gevent` is not in use."""

    def __init__(self, plan: LoadPlan) -> None:
        super().__init__(plan)
        self._triton = tritonclient.grpc.InferenceServerClient(
            plan.url, channel_args=channel_arguments(plan.url)
        )

    def prepare(self, visit: Visit) -> list[Any]:
        """Return the inputs of one gRPC request."""
        return to_inputs(tensors_of([visit], self._plan.num_results), tritonclient.grpc.InferInput)

    def send(self, prepared: list[Any]) -> Reply:
        """Send it over gRPC, and say what came back."""
        try:
            timeouts = {"timeout": self._timeout_us, "client_timeout": self._plan.timeout_s}
            return _answered(self._triton.infer(self._plan.model, prepared, **timeouts))
        except Exception as error:  # Whatever it is, it ends this request and no other.
            return _failed(error)


class HttpSender(Sender):
    """One connection for each request in flight, kept for the next one."""

    def __init__(self, plan: LoadPlan) -> None:
        super().__init__(plan)
        self._idle: list[Any] = []

    def prepare(self, visit: Visit) -> list[Any]:
        """Return the inputs of one HTTP request."""
        return to_inputs(tensors_of([visit], self._plan.num_results), tritonclient.http.InferInput)

    def send(self, prepared: list[Any]) -> Reply:
        """Send it over HTTP, and say what came back."""
        triton = self._idle.pop() if self._idle else self._connect()
        try:
            with gevent.Timeout(self._plan.timeout_s):
                reply = _answered(triton.infer(self._plan.model, prepared, timeout=self._timeout_us))
        except gevent.Timeout:
            triton.close()
            return Reply(NO_ANSWER)
        except InferenceServerException as error:
            self._idle.append(triton)
            return _failed(error)
        except Exception as error:  # Whatever it is, it ends this request and no other.
            triton.close()
            return _failed(error)
        self._idle.append(triton)
        return reply

    def _connect(self) -> Any:
        timeout_s = self._plan.timeout_s
        return tritonclient.http.InferenceServerClient(
            self._plan.url, connection_timeout=timeout_s, network_timeout=timeout_s
        )


class BareSender(Sender):
    """HTTP without a library: one connection for each request in flight, kept for the next one. It asks for a
    tenth of the processor time of `HttpSender`, and knows of an answer only that it is one."""

    def __init__(self, plan: LoadPlan) -> None:
        super().__init__(plan)
        self._idle: list[socket.socket] = []
        self._prepared: dict[str, bytes] = {}
        host, _, port = plan.url.rpartition(":")
        self._address = (host, int(port))

    def prepare(self, visit: Visit) -> list[bytes]:
        """Return one HTTP request as it is sent; those of users without inline histories are kept."""
        request = self._prepared.get(visit.user_id)
        if request is None:
            request = self._serialised(visit)
            if visit.history is None:
                self._prepared[visit.user_id] = request
        return [request]

    def send(self, prepared: list[bytes]) -> Reply:
        """Send it, and say what came back."""
        connection = None
        try:
            with gevent.Timeout(self._plan.timeout_s):
                connection = self._idle.pop() if self._idle else socket.create_connection(self._address)
                connection.sendall(prepared[0])
                reply = _read_reply(connection)
        except gevent.Timeout:
            return Reply(NO_ANSWER)
        except (OSError, ValueError):
            return Reply(NO_CONNECTION)
        self._idle.append(connection)
        status = reply[9:12].decode()
        if status == HTTP_OK:
            return Reply(OK if b"ITEM_IDS" in reply else NO_CONNECTION)
        return Reply(status)

    def _serialised(self, visit: Visit) -> bytes:
        inputs = to_inputs(tensors_of([visit], self._plan.num_results), tritonclient.http.InferInput)
        body, json_bytes = tritonclient.http.InferenceServerClient.generate_request_body(
            inputs, timeout=self._timeout_us
        )
        head = [
            f"POST /v2/models/{self._plan.model}/infer HTTP/1.1",
            f"Host: {self._plan.url}",
            f"Content-Length: {len(body)}",
            f"Inference-Header-Content-Length: {json_bytes}" if json_bytes is not None else "",
        ]
        return "\r\n".join([*filter(None, head), "", ""]).encode() + bytes(body)


def _read_reply(connection: socket.socket) -> bytes:
    """Return a whole reply. Raises `ValueError` for what is no HTTP with a length."""
    reply = b""
    while (end := reply.find(b"\r\n\r\n")) < 0:
        reply += _received(connection)
    length = LENGTH.search(reply, 0, end + 2)
    if length is None:
        raise ValueError(f"reply begins with {reply[:20]!r}; allowed: HTTP with a length")
    while len(reply) < end + 4 + int(length[1]):
        reply += _received(connection)
    return reply


def _received(connection: socket.socket) -> bytes:
    received = connection.recv(65_536)
    if not received:
        raise ConnectionResetError("the server closed the connection")
    return received


SENDERS: Mapping[Protocol, Callable[[LoadPlan], Sender]] = {
    Protocol.GRPC: GrpcSender,
    Protocol.HTTP: HttpSender,
    Protocol.BARE: BareSender,
}


def connect(plan: LoadPlan) -> Sender:
    """Return the sender of the plan's protocol; it connects with the first request."""
    return SENDERS[plan.protocol](plan)


def _failed(error: Exception) -> Reply:
    return Reply(translate(error).status or NO_CONNECTION)


def _answered(result: Any) -> Reply:
    if result.as_numpy("ITEM_IDS") is None:
        raise RecommendError("ITEM_IDS is missing from the server's answer")
    kv_source = result.as_numpy("KV_SOURCE")
    return Reply(OK, "" if kv_source is None else str(kv_source[0, 0].decode()), result)
