"""Calls single nodes of the graph, so that a test can stand between them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from numpy.typing import NDArray

from ensemble.embedded_server import EmbeddedServer

Tensors = dict[str, NDArray[Any]]

DATATYPES = {np.dtype(np.int64): "INT64", np.dtype(np.int32): "INT32", np.dtype(np.float32): "FP32"}


def call(server: EmbeddedServer, model: str, tensors: Mapping[str, NDArray[Any]]) -> Tensors:
    """All outputs of one inference."""
    inputs = []
    for name, array in tensors.items():
        tensor = triton.InferInput(name, list(array.shape), DATATYPES.get(array.dtype, "BYTES"))
        tensor.set_data_from_numpy(array)
        inputs.append(tensor)
    with triton.InferenceServerClient(server.grpc_url) as client:
        result = client.infer(model, inputs)
        return {output.name: result.as_numpy(output.name) for output in result.get_response().outputs}


def until_ranking(server: EmbeddedServer, request: Mapping[str, NDArray[Any]]) -> Tensors:
    """Run `history`, `retrieval` and `ann`; returns the inputs of `ranking`."""
    assembled = call(server, "history", request)
    resolved = {name.removeprefix("RESOLVED_"): array for name, array in assembled.items()}
    events = {name: array for name, array in assembled.items() if name.startswith("EVENT_")}
    context = {name: resolved[name] for name in ("REQUEST_TIME", "SURFACE", "BUNDLE_ID")}
    wanted = {name: resolved[name] for name in ("NUM_RESULTS", "OUTCOME_WEIGHTS")}
    retrieved = call(server, "retrieval", events | context | wanted)
    left_out = {name: assembled[name] for name in ("SEEN_ITEMS", "EXCLUDED_ITEMS")}
    made = ("QUERY_EMBEDDINGS", "QUERY_BUDGETS", "QUERY_ORIGINS", "BUNDLE_ID")
    candidates = call(server, "ann", left_out | {name: retrieved[name] for name in made})
    ranking = {name: resolved[name] for name in ("NUM_RESULTS", "UTILITY_WEIGHTS")}
    return events | context | candidates | ranking | {"KV_HANDLE": retrieved["KV_HANDLE"]}
