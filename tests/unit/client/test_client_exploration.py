"""Answers as lines of a log that `unipinrec policy join` reads."""

import json
import time

import numpy as np
import pytest
from unipinrec_client import (
    PolicyDecision,
    Recommendation,
    RecommendRequest,
    RecommendResponse,
    exploration_record,
)


def answer(user_id="42", policy=None):
    return RecommendResponse(
        user_id=user_id,
        recommendations=tuple(
            Recommendation(item_id=item, score=0.5, action_probabilities=(0.5, 0.25), retrieved_by=0)
            for item in (9, 4)
        ),
        kv_source="prefill",
        bundle_id="b",
        utility_weights=(1.0, 0.5),
        utility_source="explored",
        policy=policy,
        request_id="7f",
    )


def test_a_record_has_what_was_served_and_how_it_was_drawn():
    request = RecommendRequest(user_id="42", request_time=np.int64(1_750_000_000), surface=1)
    explored = answer(policy=PolicyDecision(arm=7, propensity=0.02, explored=True))
    record = exploration_record(request, explored)
    assert json.loads(json.dumps(record)) == {
        "request_id": "7f",
        "user_id": "42",
        "timestamp": 1_750_000_000,
        "surface": 1,
        "item_ids": [9, 4],
        "utility_weights": [1.0, 0.5],
        "decision": {"arm": 7, "propensity": 0.02, "explored": True},
    }


def test_what_the_request_left_to_the_server_is_filled_in():
    before = int(time.time())
    record = exploration_record(RecommendRequest(user_id=np.int32(42)), answer(user_id=42))
    assert before <= record["timestamp"] <= time.time()
    assert (record["user_id"], record["surface"], record["decision"]) == ("42", 0, {})


def test_a_user_id_that_is_no_text_is_refused():
    with pytest.raises(ValueError, match=r"^user_id is b'\\xff'; allowed in a log: UTF-8 text$"):
        exploration_record(RecommendRequest(user_id=b"\xff"), answer(user_id=b"\xff"))
