"""Ranking reads the slot that retrieval filled, and recomputes when it is not what the handle says."""

import time
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton
from unipinrec_client import Event, GrpcClient, RecommendRequest

from ensemble.kv.pool import COLUMNS, GENERATION
from ensemble.server.embedded_server import EmbeddedServer
from tests.conftest import NOW, USERS, Exported, serving
from tests.served.metrics import Scrape, metric
from tests.served.nodes import Tensors, answer_by_steps, call, until_ranking
from tests.served.requests import events_of, stored
from tests.support.answers import Answer, Likeness, assert_alike, offline_answers
from tests.support.seals import handles_of, sealed, with_handles
from unipinrec.models.unified.offline import OfflineRequest

USER = {
    "USER_ID": np.array([[b"user-17"]], np.object_),
    "REQUEST_TIME": np.array([[NOW]], np.int64),
    "NUM_RESULTS": np.array([[20]], np.int64),
}
BATCH = 16
KINDS = ("computed", "reused", "padding")


def same(left: Tensors, right: Tensors, promised: Likeness) -> bool:
    return not promised.difference(Answer.of_row(left), Answer.of_row(right))


def test_the_nodes_one_by_one_answer_as_the_ensemble(server: EmbeddedServer, promised: Likeness) -> None:
    ranked = answer_by_steps(server, USER)
    assert ranked["KV_SOURCE"][0, 0] in (b"prefill", b"prefix")
    assert same(ranked, call(server, "recommend", USER), promised)


@pytest.mark.parametrize("field", ["epoch", "slot", "generation", "length"])
@pytest.mark.parametrize("change", [1, -1])
def test_a_handle_that_names_another_slot_content_is_not_used(
    server: EmbeddedServer, promised: Likeness, field: str, change: int
) -> None:
    bundle = server.settings.bundle.name

    def spoil(inputs: Tensors) -> Tensors:
        (handle,) = handles_of(bundle, inputs)
        return with_handles(bundle, inputs, [handle._replace(**{field: getattr(handle, field) + change})])

    right = answer_by_steps(server, USER)
    wrong = answer_by_steps(server, USER, spoil)
    assert wrong["KV_SOURCE"].tolist() == [[b"recomputed"]]
    assert same(wrong, right, promised)


def test_a_slot_that_was_taken_over_is_not_used(server: EmbeddedServer, promised: Likeness) -> None:
    def take_over(inputs: Tensors) -> None:
        (handle,) = handles_of(server.settings.bundle.name, inputs)
        path = next(server.serving.runtime_dir.glob(f"kv-*-{handle.epoch}.header"))
        np.memmap(path, np.int64, mode="r+").reshape(-1, COLUMNS)[handle.slot, GENERATION] += 1

    ranked = answer_by_steps(server, USER, take_over)
    assert ranked["KV_SOURCE"].tolist() == [[b"recomputed"]]
    assert same(ranked, call(server, "recommend", USER), promised)


def test_an_expired_lease_is_not_used(server: EmbeddedServer, promised: Likeness) -> None:
    ranked = answer_by_steps(server, USER, lambda _: time.sleep(server.settings.lease_ms / 1000 + 0.1))
    assert ranked["KV_SOURCE"].tolist() == [[b"recomputed"]]
    assert same(ranked, call(server, "recommend", USER), promised)


def crowd(server: EmbeddedServer, users: Iterator[int]) -> None:
    """Retrieve for `users`, without ranking, until each instance has probably found no free slot."""
    full = 0
    for _ in range(USERS // BATCH):
        names = [[f"user-{user}".encode()] for user in islice(users, BATCH)]
        named = {name: np.repeat(array, BATCH, axis=0) for name, array in USER.items()}
        # Who comes after requests that never end is expected to wait long.
        inputs = until_ranking(server, named | {"USER_ID": np.array(names, np.object_)}, timeout_s=60)
        handles = handles_of(server.settings.bundle.name, inputs)
        full = full + 1 if all(handle.epoch == 0 for handle in handles) else 0
        if full == 3:
            return


def test_answers_survive_a_pool_with_no_free_slot(
    server: EmbeddedServer, exported: Exported, promised: Likeness
) -> None:
    """Retrievals whose ranking never comes hold every slot under a lease."""
    others = cycle(range(10, USERS))
    with GrpcClient(server.grpc_url, timeout_s=60.0) as client:
        # On a slow machine the first leases end before the last slot is taken.
        for _ in range(5):
            crowd(server, others)
            crowded = [client.recommend(stored(exported, user)) for user in range(4)]
            if "recomputed" in {answer.kv_source for answer in crowded}:
                break
        assert "recomputed" in {answer.kv_source for answer in crowded}
        time.sleep(server.settings.lease_ms / 1000 + 0.1)
        free = [client.recommend(stored(exported, user)) for user in range(4)]
    assert {answer.kv_source for answer in free} <= {"prefill", "prefix"}
    assert_alike(free, crowded, promised)


def test_a_slot_is_used_again_for_other_users_without_mixing(
    server: EmbeddedServer, exported: Exported, promised: Likeness
) -> None:
    evicted = metric(server, "unipinrec_kv_evictions_total", node="retrieval")
    with GrpcClient(server.grpc_url) as client:
        first = [client.recommend(stored(exported, user)) for user in range(USERS)]
        again = [client.recommend(stored(exported, user)) for user in range(USERS)]
    assert_alike(first, again, promised)
    assert metric(server, "unipinrec_kv_evictions_total", node="retrieval") > evicted + USERS / 2


def test_a_growing_history_is_continued_and_answers_as_offline_pytorch_does(
    server: EmbeddedServer, exported: Exported, promised: Likeness
) -> None:
    user = int(np.argmax(np.diff(exported.dataset.offset_U1) >= 100))
    events = events_of(exported, user)
    lengths = (60, 61, 69, 69, 90, 100)
    with GrpcClient(server.grpc_url) as client:
        grown = [client.recommend(sent(events[:length])) for length in lengths]
    assert [answer.kv_source for answer in grown] == ["prefill"] + ["prefix"] * 5
    history = exported.dataset.history(user)
    requests = [OfflineRequest(history=history[:length], request_time=NOW) for length in lengths]
    for found, right in zip(grown, offline_answers(exported, requests), strict=True):
        assert not promised.difference(Answer.served(found), right)


def sent(events: list[Event]) -> RecommendRequest:
    """A request of an anonymous user: a prefix is found by its events, not by a name."""
    return RecommendRequest(user_id="", history=events, request_time=NOW, num_results=20)


def test_the_baseline_answers_alike_without_any_slot(
    exported: Exported, tmp_path: Path, profile: str | None, promised: Likeness
) -> None:
    with (
        serving(exported, tmp_path / "server.log", baseline=True, profile=profile) as server,
        GrpcClient(server.grpc_url) as client,
        GrpcClient(server.grpc_url, model="recommend_separate") as baseline,
    ):
        for user in range(0, 40, 4):
            unified, separate = (c.recommend(stored(exported, user)) for c in (client, baseline))
            assert separate.kv_source == "recomputed"
            assert_alike([separate], [unified], promised)


def test_metrics_tell_of_prefixes_and_padding(server: EmbeddedServer, exported: Exported) -> None:
    lengths = np.diff(exported.dataset.offset_U1)
    user = int(np.flatnonzero((lengths > 50) & (lengths < 100))[-1])
    with GrpcClient(server.grpc_url) as client:
        before = positions(server)
        client.recommend(stored(exported, user))
        client.recommend(stored(exported, user))
    grown = {kind: count - before[kind] for kind, count in positions(server).items()}
    length = 1 + len(exported.dataset.history(user))
    assert grown["reused"] in (length, 2 * length)
    assert grown["computed"] + grown["reused"] == 2 * length
    # One forward for the history, and two for what each request feeds back.
    assert 0 <= grown["padding"] <= 5 * 15
    assert metric(server, "unipinrec_kv_slots_in_use", node="retrieval") <= server.settings.pool_slots


def positions(server: EmbeddedServer) -> dict[str, float]:
    scrape = Scrape(server)
    return {kind: scrape.value("unipinrec_positions_total", node="retrieval", kind=kind) for kind in KINDS}


def test_tensors_of_another_bundle_are_refused(server: EmbeddedServer) -> None:
    inputs = until_ranking(server, USER)
    inputs |= sealed("another-bundle", inputs, SEALED_HISTORY=[b""])
    with pytest.raises(
        triton.InferenceServerException, match="SEALED_HISTORY is of bundle another-bundle; this"
    ):
        call(server, "ranking", inputs)
