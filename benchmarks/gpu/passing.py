"""What goes from node to node of an ensemble: every tensor of one request, and what it carries."""

from typing import Any

import numpy as np
import tritonclient.grpc as triton
from numpy.typing import NDArray

from benchmarks.gpu.report import Passed, Passing
from ensemble.graph import CallNode, Graph, Tensors
from unipinrec.models.config import ModelConfig

CARRIES = {
    "EVENT_ITEMS": "history",
    "EVENT_ACTIONS": "history",
    "EVENT_TIMESTAMPS": "history",
    "EVENT_SURFACES": "history",
    "SEEN_ITEMS": "items to leave out",
    "EXCLUDED_ITEMS": "items to leave out",
    "RESOLVED_REQUEST_TIME": "context",
    "RESOLVED_SURFACE": "context",
    "RESOLVED_NUM_RESULTS": "context",
    "RESOLVED_OUTCOME_WEIGHTS": "context",
    "QUERY_EMBEDDINGS": "query embeddings",
    "QUERY_BUDGETS": "query embeddings",
    "QUERY_ORIGINS": "query embeddings",
    "KV_HANDLE": "where the slot is",
    "CANDIDATE_ITEMS": "candidates",
    "CANDIDATE_ORIGINS": "candidates",
    "CANDIDATE_PROBS": "candidates",
    "BUNDLE_ID": "bundle",
    "ITEM_IDS": "answer",
    "SCORES": "answer",
    "ACTION_PROBS": "answer",
    "RETRIEVED_BY": "answer",
    "KV_SOURCE": "answer",
    "USED_UTILITY_WEIGHTS": "answer",
    "UTILITY_SOURCE": "answer",
}
"""What each output of a node holds. One that is not listed counts as keys and values."""

UNKNOWN = "unknown"
LENGTH_BYTES = 4
"""Before each text of a tensor of texts."""


def follow(graph: Graph, request: Tensors, call: CallNode, model: ModelConfig) -> Passing:
    """Call the nodes one by one as the ensemble does, and count what passes."""
    passed: list[Passed] = []
    made: Tensors = {}

    def counting(node: str, inputs: Tensors) -> Tensors:
        outputs = call(node, inputs)
        passed.extend(_passed(node, name, array) for name, array in outputs.items())
        made.update(outputs)
        return outputs

    graph.run(request, counting)
    length = int(made["KV_HANDLE"][0, HANDLE_LENGTH])
    return Passing(
        tensors=tuple(passed),
        bytes=sum(one.bytes for one in passed),
        keys_and_values_bytes=sum(one.bytes for one in passed if one.carries == UNKNOWN),
        cached_bytes=2 * model.layers * model.width * length * VALUE_BYTES,
    )


HANDLE_LENGTH = 3
"""The place of the length in a handle."""

VALUE_BYTES = 2
"""Of a number in a slot of bfloat16."""


def grpc_call(client: triton.InferenceServerClient) -> CallNode:
    """Calls nodes of a server."""

    def call(node: str, tensors: Tensors) -> Tensors:
        described = client.get_model_metadata(node, as_json=True)
        datatypes = {one["name"]: one["datatype"] for one in described["inputs"]}
        outputs = [one["name"] for one in described["outputs"]]
        inputs = []
        for name, array in tensors.items():
            inputs.append(triton.InferInput(name, list(array.shape), datatypes[name]))
            inputs[-1].set_data_from_numpy(array)
        wanted = [triton.InferRequestedOutput(name) for name in outputs]
        result = client.infer(node, inputs, outputs=wanted)
        return {name: result.as_numpy(name) for name in outputs}

    return call


def _passed(node: str, name: str, array: NDArray[Any]) -> Passed:
    return Passed(
        node=node,
        name=name,
        datatype=str(array.dtype),
        shape=array.shape,
        bytes=_bytes(array),
        carries=CARRIES.get(name, UNKNOWN),
    )


def _bytes(array: NDArray[Any]) -> int:
    if array.dtype != np.object_:
        return array.nbytes
    return sum(LENGTH_BYTES + len(text) for text in array.flat)
