"""The `scoring` node: which weights count, the order of the answer, and what it says about itself."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ensemble.graph import Tensors, call_in_process
from ensemble.loaded_bundle import LoadedBundle
from ensemble.nodes.scoring import ScoringNode
from ensemble.policy.request_channel import NOTHING_ASKED
from ensemble.settings import ServingSettings
from tests.support.node_chain import counted
from tests.support.seals import sealed

ROWS = [[5, 3, 9, -1], [2, -1, -1, -1]]
PROBABILITIES = [
    [[0.5, 0.25, 0.0], [0.25, 0.5, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]],
    [[0.5, 0.5, 0.5], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]],
]


@pytest.fixture
def node(loaded: LoadedBundle) -> ScoringNode:
    return ScoringNode(loaded, ServingSettings())


def score(node: ScoringNode, loaded: LoadedBundle, **weights: NDArray[Any]) -> Tensors:
    """The answer to two users, of whom one has three candidates and asks for two, and the other has one."""
    tensors = {
        "CANDIDATE_ITEMS": np.array(ROWS),
        "CANDIDATE_ORIGINS": np.array([[7, 8, 9, 0], [1, 0, 0, 0]], np.int32),
        "CANDIDATE_PROBS": np.array(PROBABILITIES, np.float32),
        "NUM_RESULTS": np.array([[2], [4]]),
        **weights,
    }
    asked = [NOTHING_ASKED.to_bytes()] * 2
    made = sealed(loaded.id, tensors, "CANDIDATE_SEAL", "PROBS_SEAL", POLICY_TICKET=asked)
    return call_in_process({"scoring": node})("scoring", made)


def weights(*values: float) -> NDArray[np.float32]:
    return np.array([values, values], np.float32)


def test_given_weights_count_before_the_default(node: ScoringNode, loaded: LoadedBundle) -> None:
    default = np.float32(loaded.manifest.defaults.utility_weights)
    given = weights(4.0, 0.0, 0.0)
    for tensors, source, used in (
        ({"UTILITY_WEIGHTS": given}, b"given", given[0]),
        ({}, b"default", default),
    ):
        answer = score(node, loaded, **tensors)
        assert answer["UTILITY_SOURCE"].tolist() == [[source]] * 2
        assert answer["USED_UTILITY_WEIGHTS"].tolist() == [used.tolist()] * 2
        assert answer["SCORES"][1, 0] == pytest.approx(0.5 * used.sum())
        assert answer["POLICY_DECISION"].tolist() == [[b"{}"]] * 2
    assert counted(node, "unipinrec_utility_source_total", source="given") == 2
    assert counted(node, "unipinrec_utility_source_total", source="default") == 2


def test_the_best_come_first_with_all_that_belongs_to_them(node: ScoringNode, loaded: LoadedBundle) -> None:
    answer = score(node, loaded, UTILITY_WEIGHTS=weights(1.0, 3.0, 1.25))
    item_id_V = loaded.vocabulary().item_id_V
    assert answer["ITEM_IDS"].tolist() == [[item_id_V[3], item_id_V[5]], [item_id_V[2], -1]]
    assert answer["SCORES"][0].tolist() == [1.75, 1.25]
    assert answer["ACTION_PROBS"][0].tolist() == [PROBABILITIES[0][1], PROBABILITIES[0][0]]
    assert answer["RETRIEVED_BY"].tolist() == [[8, 7], [1, 0]]


def test_equal_scores_are_in_the_order_of_item_ids(node: ScoringNode, loaded: LoadedBundle) -> None:
    answer = score(node, loaded, UTILITY_WEIGHTS=weights(1.0, 1.0, 0.75))
    assert answer["SCORES"][0].tolist() == [0.75, 0.75]
    item_id_V = loaded.vocabulary().item_id_V
    assert answer["ITEM_IDS"][0].tolist() == sorted([item_id_V[3], item_id_V[5]])
