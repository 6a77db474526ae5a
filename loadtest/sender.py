"""Sends visits over gRPC or HTTP, from any number of greenlets at once.

Shapes: N events.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import gevent
import numpy as np
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException
from unipinrec_client.client import to_inputs
from unipinrec_client.errors import translate
from unipinrec_client.grpc_client import channel_arguments
from unipinrec_client.wire import OUTPUT_RANKS, Arrays

from loadtest.outcomes import OK
from loadtest.plan import LoadPlan, Protocol
from loadtest.traffic import Visit

NO_ANSWER, NO_CONNECTION = "DEADLINE_EXCEEDED", "UNAVAILABLE"


@dataclass(frozen=True, slots=True)
class Reply:
    """The server's answer, as far as a load test reads it."""

    status: str
    kv_source: str = ""


def tensors_of(visit: Visit, num_results: int) -> Arrays:
    """The ensemble's inputs: [1,1] for scalars, [1,N] for the history."""
    arrays: Arrays = {
        "USER_ID": np.array([[visit.user_id.encode()]], np.object_),
        "NUM_RESULTS": np.array([[num_results]], np.int64),
    }
    if visit.history is not None:
        arrays |= {
            "HISTORY_ITEM_IDS": visit.history.item_id_N[None],
            "HISTORY_ACTIONS": visit.history.actions_N[None],
            "HISTORY_TIMESTAMPS": visit.history.timestamp_N[None],
            "HISTORY_SURFACES": visit.history.surface_N[None].astype(np.int64),
            "REQUEST_TIME": np.array([[visit.request_time]], np.int64),
        }
    return arrays


class Sender(ABC):
    """A connection to one server. Preparing a request is apart, so that it can be done before it is due."""

    def __init__(self, plan: LoadPlan) -> None:
        self._plan = plan

    @abstractmethod
    def prepare(self, visit: Visit) -> list[Any]:
        """Serialised input tensors."""

    @abstractmethod
    def send(self, prepared: list[Any]) -> Reply:
        """Send, and wait for the reply, at most `timeout_s`; failures are replies too."""


class GrpcSender(Sender):
    """One connection for all greenlets; `grpc.experimental.gevent.init_gevent()` must have been called."""

    def __init__(self, plan: LoadPlan) -> None:
        super().__init__(plan)
        self._triton = tritonclient.grpc.InferenceServerClient(
            plan.url, channel_args=channel_arguments(plan.url)
        )
        self._outputs = [tritonclient.grpc.InferRequestedOutput(name) for name in OUTPUT_RANKS]

    def prepare(self, visit: Visit) -> list[Any]:
        """The inputs of one gRPC request."""
        return to_inputs(tensors_of(visit, self._plan.num_results), tritonclient.grpc.InferInput)

    def send(self, prepared: list[Any]) -> Reply:
        """Send it over gRPC, and say what came back."""
        try:
            return _answered(
                self._triton.infer(
                    self._plan.model, prepared, outputs=self._outputs, client_timeout=self._plan.timeout_s
                )
            )
        except Exception as error:  # Whatever it is, it ends this request and no other.
            return _failed(error)


class HttpSender(Sender):
    """One connection for each request in flight, kept for the next one."""

    def __init__(self, plan: LoadPlan) -> None:
        super().__init__(plan)
        self._idle: list[Any] = []
        self._outputs = [
            tritonclient.http.InferRequestedOutput(name, binary_data=True) for name in OUTPUT_RANKS
        ]

    def prepare(self, visit: Visit) -> list[Any]:
        """The inputs of one HTTP request."""
        return to_inputs(tensors_of(visit, self._plan.num_results), tritonclient.http.InferInput)

    def send(self, prepared: list[Any]) -> Reply:
        """Send it over HTTP, and say what came back."""
        triton = self._idle.pop() if self._idle else self._connect()
        try:
            with gevent.Timeout(self._plan.timeout_s):
                reply = _answered(triton.infer(self._plan.model, prepared, outputs=self._outputs))
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


def connect(plan: LoadPlan) -> Sender:
    """The sender of the plan's protocol; it connects with the first request."""
    return GrpcSender(plan) if plan.protocol is Protocol.GRPC else HttpSender(plan)


def _failed(error: Exception) -> Reply:
    return Reply(translate(error).status or NO_CONNECTION)


def _answered(result: Any) -> Reply:
    return Reply(OK, str(result.as_numpy("KV_SOURCE")[0, 0].decode()))
