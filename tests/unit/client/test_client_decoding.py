"""Golden tensors of answers, written by hand against the serving graph's contract."""

import dataclasses

import numpy as np
import pytest
from unipinrec_client import (
    PolicyDecision,
    Recommendation,
    RecommendError,
    RecommendRequest,
    RecommendResponse,
)
from unipinrec_client.wire import decode

LOWEST = -3.4028235e38


DECIDED = b'{"policy":"0123456789ab","arm":7,"alpha":0.25,"cohort":"core","revision":3}'


def outputs():
    return {
        "ITEM_IDS": np.array([[9, 4], [6, -1], [-1, -1]], np.int64),
        "SCORES": np.array([[0.75, 0.5], [0.25, LOWEST], [LOWEST, LOWEST]], np.float32),
        "ACTION_PROBS": np.array(
            [[[0.5, 0.25], [0.125, 0.0]], [[1.0, 0.5], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]], np.float32
        ),
        "RETRIEVED_BY": np.array([[1, 0], [2, 0], [0, 0]], np.int32),
        "KV_SOURCE": np.array([[b"prefill"], [b"prefix"], [b"recomputed"]], object),
        "USED_UTILITY_WEIGHTS": np.array([[1.0, 0.5], [2.0, 0.0], [0.0, 4.0]], np.float32),
        "UTILITY_SOURCE": np.array([[b"given"], [b"chosen"], [b"default"]], object),
        "POLICY_DECISION": np.array([[b"{}"], [DECIDED], [b'{"fallback": "late", "later": 1}']], object),
        "BUNDLE_ID": np.array([[b"b-1"], [b"b-1"], [b"b-1"]], object),
    }


USERS = [RecommendRequest(user_id="x"), RecommendRequest(user_id=b"y"), RecommendRequest(user_id="z")]


def test_responses_come_without_padding():
    assert decode(outputs(), USERS) == (
        RecommendResponse(
            user_id="x",
            recommendations=(
                Recommendation(item_id=9, score=0.75, action_probabilities=(0.5, 0.25), retrieved_by=1),
                Recommendation(item_id=4, score=0.5, action_probabilities=(0.125, 0.0), retrieved_by=0),
            ),
            kv_source="prefill",
            bundle_id="b-1",
            utility_weights=(1.0, 0.5),
            utility_source="given",
        ),
        RecommendResponse(
            user_id=b"y",
            recommendations=(
                Recommendation(item_id=6, score=0.25, action_probabilities=(1.0, 0.5), retrieved_by=2),
            ),
            kv_source="prefix",
            bundle_id="b-1",
            utility_weights=(2.0, 0.0),
            utility_source="chosen",
            policy=PolicyDecision(policy="0123456789ab", arm=7, alpha=0.25, cohort="core", revision=3),
        ),
        RecommendResponse(
            user_id="z",
            recommendations=(),
            kv_source="recomputed",
            bundle_id="b-1",
            utility_weights=(0.0, 4.0),
            utility_source="default",
            policy=PolicyDecision(fallback="late"),
        ),
    )


def test_an_answer_of_no_results_decodes_to_empty_responses():
    empty = outputs() | {
        "ITEM_IDS": np.zeros((3, 0), np.int64),
        "SCORES": np.zeros((3, 0), np.float32),
        "ACTION_PROBS": np.zeros((3, 0, 2), np.float32),
        "RETRIEVED_BY": np.zeros((3, 0), np.int32),
    }
    assert [response.recommendations for response in decode(empty, USERS)] == [(), (), ()]


def test_an_explored_answer_tells_its_arm_and_propensity():
    told = b'{"arm": 49, "propensity": 0.02, "explored": true}'
    decoded = decode(outputs() | {"POLICY_DECISION": np.array([[told]] * 3, object)}, USERS)
    assert [answer.policy for answer in decoded] == [
        PolicyDecision(arm=49, propensity=0.02, explored=True)
    ] * 3


def test_an_answer_of_two_rankers_tells_what_the_first_one_said():
    first = np.array([[[0.1, 0.2], [0.3, 0.4]], [[0.5, 0.6], [0, 0]], [[0, 0], [0, 0]]], np.float64)
    told = decode(outputs() | {"FIRST_ACTION_PROBS": first}, USERS)
    assert [[item.first_action_probabilities for item in answer.recommendations] for answer in told] == [
        [(0.1, 0.2), (0.3, 0.4)],
        [(0.5, 0.6)],
        [],
    ]
    alone = [
        dataclasses.replace(
            answer,
            recommendations=tuple(
                dataclasses.replace(item, first_action_probabilities=None) for item in answer.recommendations
            ),
        )
        for answer in told
    ]
    assert alone == list(decode(outputs(), USERS))


def test_probabilities_of_the_first_ranker_for_fewer_results_are_an_error():
    first = np.zeros((3, 1, 2), np.float32)
    with pytest.raises(RecommendError, match=r"^FIRST_ACTION_PROBS has shape .*allowed: 2 results"):
        decode(outputs() | {"FIRST_ACTION_PROBS": first}, USERS)


def test_a_server_from_before_there_were_policies_tells_nothing_of_one():
    older = {name: array for name, array in outputs().items() if name != "POLICY_DECISION"}
    expected = [dataclasses.replace(answer, policy=None) for answer in decode(outputs(), USERS)]
    assert list(decode(older, USERS)) == expected


@pytest.mark.parametrize("told", [b"", b"{", b"[]", b"7"])
def test_a_decision_that_is_no_object_is_an_error(told):
    wrong = outputs() | {"POLICY_DECISION": np.array([[told]] * 3, object)}
    with pytest.raises(RecommendError, match=r"^POLICY_DECISION is .*; allowed: a JSON object$"):
        decode(wrong, USERS)


@pytest.mark.parametrize("name", sorted(outputs().keys() - {"POLICY_DECISION"}))
def test_a_missing_output_is_an_error_naming_it(name):
    with pytest.raises(RecommendError, match=f"^{name} is missing"):
        decode(outputs() | {name: None}, USERS)


@pytest.mark.parametrize("name", sorted(outputs()))
def test_an_output_for_fewer_users_is_an_error_naming_it(name):
    with pytest.raises(RecommendError, match=rf"^{name} has shape \(2, "):
        decode(outputs() | {name: outputs()[name][:2]}, USERS)


@pytest.mark.parametrize("name", ["SCORES", "ACTION_PROBS", "RETRIEVED_BY"])
def test_outputs_of_different_widths_are_an_error(name):
    with pytest.raises(RecommendError, match=rf"^{name} has shape .*allowed: 2 results"):
        decode(outputs() | {name: outputs()[name][:, :1]}, USERS)
