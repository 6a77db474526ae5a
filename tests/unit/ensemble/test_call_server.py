"""Models of a server are called with arrays, whose types say what the wire needs."""

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
from tritonclient.grpc import InferenceServerClient

from ensemble.graph import call_server


class FakeClient:
    """Answers with one output, and keeps what it was asked."""

    def infer(self, model: str, inputs: Any, client_timeout: float, timeout: int) -> Any:
        self.asked = (model, client_timeout, timeout)
        self.sent = {tensor.name(): (tensor.datatype(), tensor.shape()) for tensor in inputs}
        response = SimpleNamespace(outputs=[SimpleNamespace(name="SCORES")])
        return SimpleNamespace(get_response=lambda: response, as_numpy={"SCORES": np.ones(3)}.get)


def test_arrays_are_sent_as_their_types_and_all_outputs_come_back() -> None:
    client = FakeClient()
    tensors = {
        "USER_ID": np.array([[b"somebody"]], np.object_),
        "HISTORY_ITEM_IDS": np.array([[1, 2, 3]]),
        "SURFACE": np.array([[1]], np.int32),
        "OUTCOME_WEIGHTS": np.ones((1, 4), np.float32),
    }
    outputs = call_server(cast(InferenceServerClient, client), timeout_s=2.0)("recommend", tensors)
    assert client.asked == ("recommend", 2.0, 2_000_000)
    assert client.sent == {
        "USER_ID": ("BYTES", [1, 1]),
        "HISTORY_ITEM_IDS": ("INT64", [1, 3]),
        "SURFACE": ("INT32", [1, 1]),
        "OUTCOME_WEIGHTS": ("FP32", [1, 4]),
    }
    assert outputs["SCORES"].tolist() == [1.0, 1.0, 1.0]
