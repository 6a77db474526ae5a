"""Sends visits to an ensemble over gRPC.

Shapes: K results, A actions, N events.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from numpy.typing import NDArray
from unipinrec_client.wire import OUTPUT_RANKS, TRITON_TYPES

from benchmarks.workload import Visit
from ensemble.arrays import PADDING
from ensemble.nodes.contract import stack

OK = "OK"

Tensors = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Answer:
    """One user's results, as they came."""

    item_id_K: NDArray[np.int64]
    score_K: NDArray[np.float32]
    probability_KA: NDArray[np.float32]
    bundle_id: str


@dataclass(frozen=True, slots=True)
class Reply:
    """The server's answer, unpacked only where it is asked for, or what it failed with."""

    status: str
    """`OK`, or the gRPC status, as `UNAVAILABLE`."""
    result: Any = None

    @property
    def kv_source(self) -> str:
        """Where ranking had keys and values from; empty for an error."""
        return "" if self.result is None else str(self.result.as_numpy("KV_SOURCE")[0, 0].decode())

    def answer(self) -> Answer:
        """The results of an answered request."""
        return answer_of({name: self.result.as_numpy(name) for name in OUTPUT_RANKS})


def answer_of(outputs: Tensors) -> Answer:
    """The first user's results among an ensemble's output tensors."""
    found = outputs["ITEM_IDS"][0] >= 0
    return Answer(
        outputs["ITEM_IDS"][0][found],
        outputs["SCORES"][0][found],
        outputs["ACTION_PROBS"][0][found],
        str(outputs["BUNDLE_ID"][0, 0].decode()),
    )


class RequestMaker:
    """Visits as the ensemble's input tensors."""

    def __init__(self, item_id_V: NDArray[np.int64], num_results: int) -> None:
        """`item_id_V`: external ids by item row."""
        self._item_id_V = item_id_V
        self._num_results = num_results

    def __call__(self, *visits: Visit) -> Tensors:
        """One request with inline histories; NUM_RESULTS is said, all other defaults are the bundle's."""
        histories = [visit.history for visit in visits]
        item_ids = [self._item_id_V[history.item_row_N] for history in histories]
        return {
            "USER_ID": np.array([[visit.user_id.encode()] for visit in visits], np.object_),
            "HISTORY_ITEM_IDS": stack(item_ids, PADDING),
            "HISTORY_ACTIONS": stack([history.actions_N for history in histories], 0),
            "HISTORY_TIMESTAMPS": stack([history.timestamp_N for history in histories], 0),
            "HISTORY_SURFACES": stack([history.surface_N.astype(np.int64) for history in histories], 0),
            "REQUEST_TIME": np.array([[visit.request_time] for visit in visits], np.int64),
            "NUM_RESULTS": np.full((len(visits), 1), self._num_results, np.int64),
        }


class GrpcCaller:
    """Calls one ensemble. Preparing a request is apart, so that it can be done off the clock."""

    def __init__(
        self, client: triton.InferenceServerClient, model: str, make: RequestMaker, timeout_s: float
    ) -> None:
        self._client = client
        self._make = make
        outputs = [triton.InferRequestedOutput(name) for name in OUTPUT_RANKS]
        self._fixed = {"model_name": model, "outputs": outputs, "client_timeout": timeout_s}

    def prepare(self, visit: Visit) -> list[triton.InferInput]:
        """Serialised input tensors."""
        inputs = []
        for name, array in self._make(visit).items():
            inputs.append(triton.InferInput(name, list(array.shape), TRITON_TYPES[name]))
            inputs[-1].set_data_from_numpy(array)
        return inputs

    def call(self, prepared: list[triton.InferInput]) -> Reply:
        """Send, and wait for the reply."""
        try:
            return Reply(OK, self._client.infer(inputs=prepared, **self._fixed))
        except triton.InferenceServerException as error:
            return _failed(error)

    def start(self, prepared: list[triton.InferInput], done: Callable[[Reply], None]) -> None:
        """Send; `done` gets the reply on another thread."""

        def received(result: Any, error: triton.InferenceServerException | None) -> None:
            done(Reply(OK, result) if error is None else _failed(error))

        self._client.async_infer(inputs=prepared, callback=received, **self._fixed)


def _failed(error: triton.InferenceServerException) -> Reply:
    return Reply(str(error.status() or "UNKNOWN").removeprefix("StatusCode."))
