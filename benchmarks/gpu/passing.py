"""What goes from node to node of an ensemble: every tensor of one request, and what it carries."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from numpy.typing import NDArray

from benchmarks.gpu.report import Passed, Passing
from unipinrec.config import ModelConfig

Tensors = dict[str, NDArray[Any]]
CallNode = Callable[[str, Tensors, Sequence[str]], Tensors]
"""Node, its inputs, and the names of the outputs that are wanted."""

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
    "RESOLVED_UTILITY_WEIGHTS": "context",
    "QUERY_EMBEDDINGS": "query embeddings",
    "QUERY_BUDGETS": "query embeddings",
    "QUERY_ORIGINS": "query embeddings",
    "KV_HANDLE": "where the slot is",
    "CANDIDATE_ITEMS": "candidates",
    "CANDIDATE_ORIGINS": "candidates",
    "BUNDLE_ID": "bundle",
    "ITEM_IDS": "answer",
    "SCORES": "answer",
    "ACTION_PROBS": "answer",
    "RETRIEVED_BY": "answer",
    "KV_SOURCE": "answer",
}
"""What each output of a node holds. One that is not listed counts as keys and values."""

UNKNOWN = "unknown"
LENGTH_BYTES = 4
"""Before each text of a tensor of texts."""


@dataclass(frozen=True, slots=True)
class Step:
    """One node of an ensemble, by its own names for tensors and those of the ensemble."""

    node: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


def steps_of(config: Mapping[str, Any]) -> list[Step]:
    """Those of an ensemble's configuration as JSON."""
    return [
        Step(str(one["model_name"]), dict(one["input_map"]), dict(one["output_map"]))
        for one in config["ensemble_scheduling"]["step"]
    ]


def follow(steps: Sequence[Step], request: Tensors, call: CallNode, model: ModelConfig) -> Passing:
    """Call the nodes one by one as the ensemble does, and count what passes."""
    tensors, passed = dict(request), []
    for step in steps:
        inputs = {name: tensors[outer] for name, outer in step.inputs.items() if outer in tensors}
        made = call(step.node, inputs, list(step.outputs))
        passed += [_passed(step.node, name, made[name]) for name in step.outputs]
        tensors |= {outer: made[name] for name, outer in step.outputs.items()}
    handle = next(one for one in passed if one.name == "KV_HANDLE")
    length = int(tensors[_outer(steps, handle.name)][0, HANDLE_LENGTH])
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

    def call(node: str, tensors: Tensors, outputs: Sequence[str]) -> Tensors:
        described = client.get_model_metadata(node, as_json=True)
        datatypes = {one["name"]: one["datatype"] for one in described["inputs"]}
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


def _outer(steps: Sequence[Step], name: str) -> str:
    return next(step.outputs[name] for step in steps if name in step.outputs)
