"""Inner nodes called by callers who are no ensemble, over both protocols."""

from contextlib import closing
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException
from unipinrec_client import GrpcClient, RecommendRequest

from ensemble.graph import Tensors
from ensemble.nodes.seal import VOUCHED
from ensemble.server.embedded_server import EmbeddedServer
from tests.conftest import NOW, Exported
from tests.served.nodes import RECOMMEND, call, floats, inputs_of, instances_of, int64
from tests.served.requests import events_of, inline, stored
from tests.support.seals import resealed
from tests.support.wire import Wire, WireRequest, WireTensor

USER = {
    "USER_ID": np.array([[b"user-17"]], np.object_),
    "REQUEST_TIME": int64(NOW),
    "NUM_RESULTS": int64(20),
}
VICTIM = {**USER, "USER_ID": np.array([[b"user-18"]], np.object_)}
INNER = [step.node for step in RECOMMEND.steps if step.node != "history"]
NOT_SEALED = (
    "was not sealed by this server for this request; inner nodes answer as steps of an ensemble alone"
)
PROTOCOLS = [tritonclient.grpc, tritonclient.http]


def inputs_by_node(server: EmbeddedServer, request: Tensors) -> dict[str, Tensors]:
    """What every node is given when the ensemble's steps are called one by one."""
    given: dict[str, Tensors] = {}

    def step(node: str, inputs: Tensors) -> Tensors:
        given[node] = inputs
        return call(server, node, inputs)

    RECOMMEND.run(request, step)
    return given


def refusal(server: EmbeddedServer, protocol: ModuleType, node: str, tensors: Tensors) -> str:
    url = server.grpc_url if protocol is tritonclient.grpc else server.http_url.removeprefix("http://")
    with (
        protocol.InferenceServerClient(url) as client,
        pytest.raises(InferenceServerException) as error,
    ):
        client.infer(node, inputs_of(tensors, protocol))
    assert error.value.status() in ("StatusCode.INVALID_ARGUMENT", "400")
    return str(error.value.message())


@pytest.fixture
def mine(server: EmbeddedServer) -> dict[str, Tensors]:
    return inputs_by_node(server, USER)


@pytest.fixture
def theirs(server: EmbeddedServer) -> dict[str, Tensors]:
    return inputs_by_node(server, VICTIM)


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=["grpc", "http"])
@pytest.mark.parametrize("node", INNER)
def test_who_has_nothing_sealed_is_refused(
    server: EmbeddedServer, mine: dict[str, Tensors], protocol: ModuleType, node: str
) -> None:
    made_up = {
        name: np.full(array.shape, b"\0" * 200, np.object_) if array.dtype == np.object_ else array
        for name, array in mine[node].items()
    }
    assert NOT_SEALED in refusal(server, protocol, node, made_up)


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=["grpc", "http"])
@pytest.mark.parametrize("node", INNER)
def test_no_tensor_of_one_request_serves_another(
    server: EmbeddedServer,
    mine: dict[str, Tensors],
    theirs: dict[str, Tensors],
    protocol: ModuleType,
    node: str,
) -> None:
    """A caller may call `history` for a user, but not look at what it seals, nor ask anything else of it."""
    opaque = [name for name, array in mine[node].items() if array.dtype == np.object_]
    read = {name for names in VOUCHED.values() for name in names} & mine[node].keys()
    for name in [*(opaque if len(opaque) > 1 else []), *read]:
        if not np.array_equal(mine[node][name], theirs[node][name]):
            mixed = {**mine[node], name: theirs[node][name]}
            assert NOT_SEALED in refusal(server, protocol, node, mixed)


def test_what_history_answers_does_not_show_a_history(
    server: EmbeddedServer, exported: Exported, mine: dict[str, Tensors], theirs: dict[str, Tensors]
) -> None:
    tensors = call(server, "history", VICTIM)
    plain = tensors.keys() - {"SEALED_HISTORY", "SEALED_LEFT_OUT", "POLICY_TICKET"}
    assert plain == {"RESOLVED_NUM_RESULTS", "RESOLVED_OUTCOME_WEIGHTS"}
    # Whoever it is, and other bytes each time.
    assert len(mine["retrieval"]["SEALED_HISTORY"][0, 0]) == len(theirs["retrieval"]["SEALED_HISTORY"][0, 0])
    assert tensors["SEALED_HISTORY"][0, 0] != theirs["retrieval"]["SEALED_HISTORY"][0, 0]
    item = exported.dataset.history(18).item_row_N[:1].astype("<i4").tobytes()
    assert item not in tensors["SEALED_HISTORY"][0, 0]


@pytest.mark.parametrize(
    ("node", "changed", "message"),
    [
        ("retrieval", {"NUM_RESULTS": int64(129)}, "NUM_RESULTS is 129 at user 0; allowed: 1 to 128"),
        (
            "retrieval",
            {"OUTCOME_WEIGHTS": floats(1, -1, 0)},
            "OUTCOME_WEIGHTS is -1.0 at user 0, action 1; allowed: 0 to 1e+30",
        ),
        (
            "scoring",
            {"UTILITY_WEIGHTS": floats(1)},
            "UTILITY_WEIGHTS has 1 values; allowed: 3, one for each action",
        ),
        ("scoring", {"NUM_RESULTS": int64(0)}, "NUM_RESULTS is 0 at user 0; allowed: 1 to 128"),
        (
            "scoring",
            {"FIRST_PROBS": np.zeros((1, 40, 2), np.float32)},
            "FIRST_PROBS has shape (1, 40, 2); allowed: (1, 40, 3)",
        ),
        (
            "scoring",
            {"FIRST_PROBS": np.full((1, 40, 3), np.nan, np.float32)},
            "FIRST_PROBS is not a probability somewhere; allowed: 0 to 1",
        ),
        (
            "scoring",
            {"CANDIDATE_ORIGINS": np.zeros((1, 1), np.int32)},
            "CANDIDATE_ORIGINS has another shape than CANDIDATE_ITEMS; allowed: the same",
        ),
    ],
)
def test_what_nothing_vouches_for_is_checked(
    server: EmbeddedServer, mine: dict[str, Tensors], node: str, changed: Tensors, message: str
) -> None:
    given = resealed(server.settings.bundle.name, mine[node])
    assert message in refusal(server, tritonclient.grpc, node, given | changed)


def test_only_the_same_user_finds_a_prefix_and_of_short_histories_nobody(server: EmbeddedServer) -> None:
    """Else an answer would confirm a guess of what somebody did."""
    long, short = inline(71, 60), inline(72, 3)
    with GrpcClient(server.grpc_url) as client:

        def source(request: RecommendRequest, user_id: str) -> str:
            return client.recommend(replace(request, user_id=user_id)).kv_source

        found = [source(long, user) for user in ("ann", "ann", "bob", "", "", "ann")]
        assert found == ["prefill", "prefix", "prefill", "prefill", "prefix", "prefix"]
        assert [source(short, user) for user in ("ann", "ann", "", "")] == ["prefill"] * 4


def test_who_sends_the_history_of_a_stored_user_finds_no_prefix(
    server: EmbeddedServer, exported: Exported
) -> None:
    user = int(np.argmax(np.diff(exported.dataset.offset_U1) >= 50))
    asked = stored(exported, user)
    with GrpcClient(server.grpc_url) as client:
        client.recommend(asked)
        assert client.recommend(asked).kv_source == "prefix"
        assert client.recommend(replace(asked, history=events_of(exported, user))).kv_source == "prefill"


@pytest.mark.parametrize(
    ("node", "name", "shape", "content"),
    [
        ("recommend", "EXCLUDE_ITEM_IDS", [1, 2**61], b""),
        ("recommend", "UTILITY_WEIGHTS", [1, 2**62 + 4], bytes(16)),
        ("history", "HISTORY_ITEM_IDS", [1, 2**61], b""),
        ("retrieval", "OUTCOME_WEIGHTS", [1, 2**62], b""),
        ("ann", "QUERY_EMBEDDINGS", [1, 2**31, 2**31], b""),
        ("ranking", "CANDIDATE_ITEMS", [1, 2**61], b""),
        ("scoring", "CANDIDATE_PROBS", [1, 2**60, 4], b""),
    ],
)
def test_a_shape_that_no_memory_holds_is_refused_and_ends_no_process(
    server: EmbeddedServer,
    mine: dict[str, Tensors],
    node: str,
    name: str,
    shape: list[int],
    content: bytes,
) -> None:
    """Triton lets it through: its size in bytes, modulo 2^64, is that of the content."""
    before = instances_of(server)
    request = WireRequest.of(node, mine.get(node, USER))
    datatype = "INT64" if name.endswith(("ITEMS", "IDS")) else "FP32"
    request.inputs = [tensor for tensor in request.inputs if tensor.name != name]
    request.inputs.append(WireTensor(name, datatype, shape, content))
    with closing(Wire(server.grpc_url, server.http_url)) as wire:
        over_grpc = wire.over_grpc(request.to_grpc())
        over_http = wire.over_http(f"/v2/models/{node}/infer", *request.to_http())
    for reply, status in ((over_grpc, "INVALID_ARGUMENT"), (over_http, "400")):
        assert f"{name} has shape {shape}; allowed: as many values as it has" in reply.text
        assert reply.status == status
    assert instances_of(server) == before
