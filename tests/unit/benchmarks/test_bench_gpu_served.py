"""What the GPU bench counts between nodes, and how it compares answers, on a CPU and without a server."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from tritonclient.utils import InferenceServerException

from benchmarks.gpu.answers import Asked, answer_check, check_answers, random_requests
from benchmarks.gpu.passing import KNOWN, follow
from benchmarks.gpu.shape import PAPER
from benchmarks.random_bundle import RandomBundle, make_random_bundle
from ensemble.graph import MODEL_REPOSITORY, Graph, Tensors, ensembles_in
from unipinrec.models.unified.offline import OfflineRecommender

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> RandomBundle:
    folder = tmp_path_factory.mktemp("bundles")
    return make_random_bundle(2_000, folder, lambda _: None, sizes="tiny", retrieval_steps=2)


def recommend(**more_of_retrieval: str) -> Graph:
    """The ensemble, with more outputs of its second step."""
    history, retrieval, *others = (graph := ensembles_in(MODEL_REPOSITORY)["recommend"]).steps
    retrieval = replace(retrieval, outputs={**retrieval.outputs, **more_of_retrieval})
    return replace(graph, steps=(history, retrieval, *others))


def test_every_tensor_between_the_nodes_is_counted_and_known() -> None:
    asked: dict[str, set[str]] = {}

    graph = recommend()
    outputs = {step.node: step.outputs for step in graph.steps}

    def call(node: str, tensors: Tensors) -> Tensors:
        asked[node] = set(tensors)
        made: Tensors = {name: np.zeros((1, 10), np.float32) for name in outputs[node]}
        if "BUNDLE_ID" in made:
            made["BUNDLE_ID"] = np.array([[b"bundle"]], np.object_)
        return made

    found = follow(graph, {"USER_ID": np.zeros((1, 1))}, call, PAPER.model, 993)
    assert asked["history"] == {"USER_ID"}
    assert {"KV_HANDLE", "CANDIDATE_ITEMS", "SEALED_HISTORY"} < asked["ranking"]
    bytes_of = {tensor["name"]: tensor["bytes"] for tensor in found["tensors"]}
    assert bytes_of["KV_HANDLE"] == 40
    assert bytes_of["BUNDLE_ID"] == 10
    assert set(bytes_of) == set(KNOWN)
    assert found["keys_and_values_bytes"] == 0
    assert found["cached_bytes"] == 2 * 12 * 768 * 993 * 2
    assert found["bytes"] == sum(tensor["bytes"] for tensor in found["tensors"])


def test_a_tensor_that_nobody_knows_counts_as_keys_and_values() -> None:
    graph = recommend(PAST_KEYS="PAST_KEYS")
    outputs = {step.node: step.outputs for step in graph.steps}

    def call(node: str, _tensors: Tensors) -> Tensors:
        return {name: np.zeros((1, 6), np.int64) for name in outputs[node]}

    found = follow(graph, {}, call, PAPER.model, 993)
    assert found["keys_and_values_bytes"] == 48


def test_random_users_come_again_with_more_events(bundle: RandomBundle) -> None:
    lengths: dict[str, int] = {}
    asked, returned, grown = list(islice(random_requests(bundle, seed=3), 3_000)), 0, 0
    for history, _ in asked:
        before = lengths.get(history.user_id, 0)
        returned += before > 0
        grown += len(history) > before > 0
        assert len(history) >= before
        lengths[history.user_id] = len(history)
    assert grown == returned > 1_000
    assert len(lengths) > 800, "no user was ever new"
    assert min(lengths.values()) < 3
    assert max(lengths.values()) > bundle.manifest.model.max_history
    assert {wanted for _, wanted in asked} == set(range(1, bundle.num_results + 1))


def answered(made: RandomBundle) -> Callable[[Asked], Tensors]:
    """A server that is right, by exact search."""
    offline = OfflineRecommender(made.load_model())

    def send(asked: Asked) -> Tensors:
        history, wanted = asked
        request = made.offline_request(history)
        (found,) = offline.recommend([request], wanted, made.manifest.defaults)
        return {
            "ITEM_IDS": made.item_ids[found.item_row_K][None],
            "SCORES": found.score_K[None],
            "ACTION_PROBS": found.probability_KA[None],
            "BUNDLE_ID": np.array([[made.manifest.bundle_id.encode()]]),
            "KV_SOURCE": np.array([[b"prefill"]]),
        }

    return send


def test_right_answers_pass_in_any_batch_and_others_are_found(bundle: RandomBundle) -> None:
    right, seen = answered(bundle), Counter[str]()

    def send(asked: Asked) -> Tensors:
        place = len(seen)
        seen[f"{place} {asked[0].user_id}"] += 1
        if place == 4:
            raise InferenceServerException("overloaded", status="StatusCode.UNAVAILABLE")
        outputs = right(asked)
        return outputs | {"ACTION_PROBS": 1 - outputs["ACTION_PROBS"]} if place == 9 else outputs

    check = answer_check(bundle, CPU)
    found = check_answers(send, random_requests(bundle, seed=5), check, 12, lambda _: None)
    assert (found["requests"], found["failed"], found["kv_source"]) == (
        12,
        {"UNAVAILABLE": 1},
        {"prefill": 11},
    )
    assert found["different"] == 1
    assert any("ACTION_PROBS" in what for what in found["differences"])
    exact = check_answers(right, random_requests(bundle, seed=5), check, 12, lambda _: None)
    assert (exact["different"], exact["differences"]) == (0, [])
    assert exact["largest_difference"] < 1e-4
