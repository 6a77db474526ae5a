"""What goes from node to node of an ensemble: every tensor of one request."""

from typing import Any

import numpy as np

from ensemble.graph import CallNode, Graph, Tensors
from unipinrec.models.config import ModelConfig

KNOWN = (
    "ADMISSION", "SEALED_HISTORY", "SEALED_LEFT_OUT", "RESOLVED_NUM_RESULTS", "RESOLVED_OUTCOME_WEIGHTS",
    "QUERY_EMBEDDINGS", "QUERY_BUDGETS", "QUERY_ORIGINS", "QUERY_SEAL", "KV_HANDLE", "CANDIDATE_ITEMS",
    "CANDIDATE_ORIGINS", "CANDIDATE_SEAL", "CANDIDATE_PROBS", "PROBS_SEAL", "BUNDLE_ID", "ITEM_IDS",
    "SCORES", "ACTION_PROBS", "RETRIEVED_BY", "KV_SOURCE", "USED_UTILITY_WEIGHTS", "UTILITY_SOURCE",
    "POLICY_TICKET", "POLICY_DECISION",
)  # fmt: skip
"""Outputs of nodes that are not keys and values. Any other counts as such."""

LENGTH_BYTES = 4
"""Before each text of a tensor of texts."""

VALUE_BYTES = 2
"""Of a number in a slot of bfloat16."""


def follow(
    graph: Graph, request: Tensors, call: CallNode, model: ModelConfig, positions: int
) -> dict[str, Any]:
    """Call the nodes one by one as the ensemble does for a history of so many positions, and return the
    `tensors` that they made, the `bytes` of all, the `keys_and_values_bytes` among them, and the
    `cached_bytes` of those that stay in the slot."""
    passed: list[dict[str, Any]] = []

    def counting(node: str, inputs: Tensors) -> Tensors:
        outputs = call(node, inputs)
        for name, array in outputs.items():
            is_text = array.dtype == np.object_
            size = sum(LENGTH_BYTES + len(text) for text in array.flat) if is_text else array.nbytes
            described = {"node": node, "name": name, "shape": array.shape, "datatype": str(array.dtype)}
            passed.append(described | {"bytes": size})
        return outputs

    graph.run(request, counting)
    return {
        "tensors": passed,
        "bytes": sum(tensor["bytes"] for tensor in passed),
        "keys_and_values_bytes": sum(tensor["bytes"] for tensor in passed if tensor["name"] not in KNOWN),
        "cached_bytes": 2 * model.layers * model.width * positions * VALUE_BYTES,
    }
