"""Ranking reads the slot that retrieval filled, and recomputes when it is not what the handle says."""

import time

import numpy as np
import pytest
import tritonclient.grpc as triton
from unipinrec_client import GrpcClient

from ensemble.embedded_server import EmbeddedServer
from ensemble.kv_pool import GENERATION, Handle
from tests.conftest import USERS, Exported
from tests.served.nodes import Tensors, call, until_ranking
from tests.served.requests import NOW, stored

USER = {
    "USER_ID": np.array([[b"user-17"]], np.object_),
    "REQUEST_TIME": np.array([[NOW]], np.int64),
    "NUM_RESULTS": np.array([[20]], np.int32),
}
RESULTS = ("ITEM_IDS", "SCORES", "ACTION_PROBS", "RETRIEVED_BY")


def same(left: Tensors, right: Tensors) -> bool:
    return all(np.array_equal(left[name], right[name]) for name in RESULTS)


def test_the_nodes_one_by_one_answer_as_the_ensemble(server: EmbeddedServer) -> None:
    ranked = call(server, "ranking", until_ranking(server, USER))
    assert ranked["KV_SOURCE"].tolist() == [[b"prefill"]]
    assert same(ranked, call(server, "recommend", USER))


@pytest.mark.parametrize("field", ["epoch", "slot", "generation", "length"])
@pytest.mark.parametrize("change", [1, -1])
def test_a_handle_that_names_another_slot_content_is_not_used(
    server: EmbeddedServer, field: str, change: int
) -> None:
    inputs = until_ranking(server, USER)
    right = call(server, "ranking", inputs)
    column = ("epoch", "slot", "generation", "length").index(field)
    inputs["KV_HANDLE"] = inputs["KV_HANDLE"].copy()
    inputs["KV_HANDLE"][0, column] += change
    wrong = call(server, "ranking", inputs)
    assert wrong["KV_SOURCE"].tolist() == [[b"recomputed"]]
    assert same(wrong, right)


def test_a_slot_that_was_taken_over_is_not_used(server: EmbeddedServer) -> None:
    inputs = until_ranking(server, USER)
    handle = Handle.from_array(inputs["KV_HANDLE"][0])
    path = next(server.settings.runtime_dir.glob(f"kv-*-{handle.epoch}.header"))
    np.memmap(path, np.int64, mode="r+").reshape(-1, 5)[handle.slot, GENERATION] += 1
    ranked = call(server, "ranking", inputs)
    assert ranked["KV_SOURCE"].tolist() == [[b"recomputed"]]
    assert same(ranked, call(server, "recommend", USER))


def test_an_expired_lease_is_not_used(server: EmbeddedServer) -> None:
    inputs = until_ranking(server, USER)
    time.sleep(server.settings.lease_ms / 1000 + 0.1)
    ranked = call(server, "ranking", inputs)
    assert ranked["KV_SOURCE"].tolist() == [[b"recomputed"]]
    assert same(ranked, call(server, "recommend", USER))


def test_answers_survive_a_pool_with_no_free_slot(server: EmbeddedServer, exported: Exported) -> None:
    """Retrievals whose ranking never comes hold every slot under a lease."""
    abandoned = [until_ranking(server, USER) for _ in range(server.settings.pool_slots)]
    assert len({int(inputs["KV_HANDLE"][0, 1]) for inputs in abandoned}) == server.settings.pool_slots
    with GrpcClient(server.grpc_url) as client:
        crowded = client.recommend(stored(exported, 5))
        assert crowded.kv_source == "recomputed"
        time.sleep(server.settings.lease_ms / 1000 + 0.1)
        free = client.recommend(stored(exported, 5))
    assert free.kv_source == "prefill"
    assert free.recommendations == crowded.recommendations


def test_a_slot_is_used_again_for_other_users_without_mixing(
    server: EmbeddedServer, exported: Exported
) -> None:
    with GrpcClient(server.grpc_url) as client:
        first = [client.recommend(stored(exported, user)) for user in range(0, USERS, 2)]
        again = [client.recommend(stored(exported, user)) for user in range(0, USERS, 2)]
    assert first == again
    assert {answer.kv_source for answer in first} == {"prefill"}


def test_tensors_of_another_bundle_are_refused(server: EmbeddedServer) -> None:
    inputs = until_ranking(server, USER)
    inputs["BUNDLE_ID"] = np.array([[b"another-bundle"]], np.object_)
    with pytest.raises(triton.InferenceServerException, match="BUNDLE_ID is another-bundle; this"):
        call(server, "ranking", inputs)
