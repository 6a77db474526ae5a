"""What the nodes behind the edge refuse when they are called one by one, with tensor, value and range."""

from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from numpy.typing import NDArray

from ensemble.server.embedded_server import EmbeddedServer
from tests.conftest import ITEMS, NOW, Exported
from tests.served.nodes import call, floats, int64


@pytest.mark.parametrize(
    ("node", "name", "array", "message"),
    [
        (
            "retrieval",
            "EVENT_ITEMS",
            np.zeros((1, 129), np.int64),
            "EVENT_ITEMS has 129 values; allowed: 1 to 128",
        ),
        (
            "retrieval",
            "EVENT_ITEMS",
            int64(ITEMS),
            "EVENT_ITEMS is 400 at user 0, place 0; allowed: 0 to 399",
        ),
        ("retrieval", "NUM_RESULTS", int64(129), "NUM_RESULTS is 129 at user 0; allowed: 1 to 128"),
        (
            "retrieval",
            "OUTCOME_WEIGHTS",
            floats(1, -1, 0),
            "OUTCOME_WEIGHTS is -1.0 at user 0, action 1; allowed: 0 to 1e+30",
        ),
        ("ann", "QUERY_BUDGETS", int64(129), "QUERY_BUDGETS adds up to 129; allowed: 1 to 128"),
        (
            "ann",
            "QUERY_EMBEDDINGS",
            np.zeros((1, 1, 3), np.float32),
            "QUERY_EMBEDDINGS has width 3; allowed: 32",
        ),
        ("retrieval", "EVENT_SURFACES", int64(2), "EVENT_SURFACES is 2 at user 0, event 0; allowed: 0 to 1"),
        ("retrieval", "EVENT_ACTIONS", int64(8), "EVENT_ACTIONS is 8 at user 0, event 0; allowed: 0 to 7"),
        ("retrieval", "SURFACE", int64(-1), "SURFACE is -1 at user 0; allowed: 0 to 1"),
        ("ranking", "SURFACE", int64(2), "SURFACE is 2 at user 0; allowed: 0 to 1"),
        (
            "scoring",
            "UTILITY_WEIGHTS",
            floats(1),
            "UTILITY_WEIGHTS has 1 values; allowed: 3, one for each action",
        ),
        ("scoring", "NUM_RESULTS", int64(0), "NUM_RESULTS is 0 at user 0; allowed: 1 to 128"),
        (
            "scoring",
            "CANDIDATE_PROBS",
            np.zeros((1, 2, 2), np.float32),
            "CANDIDATE_PROBS has shape (1, 2, 2); allowed: (1, 2, 3)",
        ),
        (
            "scoring",
            "CANDIDATE_PROBS",
            np.full((1, 2, 3), np.nan, np.float32),
            "CANDIDATE_PROBS is not a probability somewhere; allowed: 0 to 1",
        ),
        ("ranking", "EVENT_ITEMS", int64(-2), "EVENT_ITEMS is -2 at user 0, place 0; allowed: 0 to 399"),
        (
            "ranking",
            "CANDIDATE_ITEMS",
            int64(7, ITEMS),
            "CANDIDATE_ITEMS is 400 at user 0, place 1; allowed: 0 to 399, and -1 for padding",
        ),
        (
            "ranking",
            "CANDIDATE_ITEMS",
            int64(-2, 7),
            "CANDIDATE_ITEMS is -2 at user 0, place 0; allowed: 0 to 399, and -1 for padding",
        ),
        (
            "ranking",
            "CANDIDATE_ITEMS",
            np.zeros((1, 129), np.int64),
            "CANDIDATE_ITEMS has 129 values; allowed: 1 to 128",
        ),
        (
            "scoring",
            "CANDIDATE_ITEMS",
            int64(7),
            "CANDIDATE_ORIGINS has another shape than CANDIDATE_ITEMS; allowed: the same",
        ),
    ],
)
def test_inner_nodes_refuse_what_no_node_would_send(
    server: EmbeddedServer, exported: Exported, node: str, name: str, array: NDArray[Any], message: str
) -> None:
    asked = {
        "EVENT_ITEMS": int64(0),
        "EVENT_ACTIONS": int64(1),
        "EVENT_TIMESTAMPS": int64(5),
        "EVENT_SURFACES": int64(0),
        "REQUEST_TIME": int64(NOW),
        "SURFACE": int64(0),
    }
    tensors = {
        "retrieval": asked | {"NUM_RESULTS": int64(5), "OUTCOME_WEIGHTS": floats(1, 0, 0)},
        "ann": {
            "QUERY_EMBEDDINGS": np.ones((1, 1, 32), np.float32),
            "QUERY_BUDGETS": int64(5),
            "QUERY_ORIGINS": np.array([[0]], np.int32),
            "SEEN_ITEMS": int64(-1),
            "EXCLUDED_ITEMS": int64(-1),
            "CATALOGUE_VERSION": int64(0),
        },
        "ranking": asked | {"CANDIDATE_ITEMS": int64(7, 8), "KV_HANDLE": int64(0, 0, 0, 0, 0, 0)},
        "scoring": {
            "CANDIDATE_ITEMS": int64(7, 8),
            "CANDIDATE_ORIGINS": np.array([[0, 0]], np.int32),
            "CANDIDATE_PROBS": np.full((1, 2, 3), 0.5, np.float32),
            "NUM_RESULTS": int64(5),
        },
    }[node]
    bundle = {"BUNDLE_ID": np.array([[exported.bundle.name.encode()]], np.object_)}
    assert call(server, node, tensors | bundle)
    with pytest.raises(triton.InferenceServerException) as error:
        call(server, node, tensors | bundle | {name: array})
    assert error.value.status() == "StatusCode.INVALID_ARGUMENT"
    assert message in error.value.message()
