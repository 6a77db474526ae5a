"""Golden tensors of requests, written by hand against the serving graph's contract."""

import dataclasses
import math

import numpy as np
import pytest
from unipinrec_client import (
    Event,
    RecommendRequest,
)
from unipinrec_client.wire import encode

from tests.unit.client.wire_requests import FIRST, SECOND


def assert_tensors(arrays, expected):
    assert set(arrays) == set(expected)
    for name, (dtype, values) in expected.items():
        assert arrays[name].dtype == np.dtype(dtype), name
        assert arrays[name].tolist() == values, name


def test_only_the_user_id_is_sent_when_nothing_else_is_set():
    assert_tensors(encode([RecommendRequest(user_id="é")]), {"USER_ID": (object, [[b"\xc3\xa9"]])})


def test_two_users_are_padded_at_the_end():
    assert_tensors(
        encode([FIRST, SECOND]),
        {
            "USER_ID": (object, [[b"ada"], [b"\xff\x00"]]),
            "HISTORY_ITEM_IDS": ("int64", [[11, 12], [-5, -1]]),
            "HISTORY_ACTIONS": ("int64", [[5, 1], [2, 0]]),
            "HISTORY_TIMESTAMPS": ("int64", [[1000, 1001], [9, 0]]),
            "HISTORY_SURFACES": ("int64", [[2, 0], [0, 0]]),
            "REQUEST_TIME": ("int64", [[2000], [2001]]),
            "SURFACE": ("int64", [[1], [0]]),
            "NUM_RESULTS": ("int64", [[3], [4]]),
            "OUTCOME_WEIGHTS": ("float32", [[0.5, 0.25], [0.5, 0.25]]),
            "UTILITY_WEIGHTS": ("float32", [[1.0, 2.0], [1.0, 2.0]]),
            "EXCLUDE_ITEM_IDS": ("int64", [[7, 8], [-1, -1]]),
        },
    )


def test_an_empty_history_is_one_padded_event():
    arrays = encode([RecommendRequest(user_id="1", history=())])
    assert_tensors(
        arrays,
        {
            "USER_ID": (object, [[b"1"]]),
            "HISTORY_ITEM_IDS": ("int64", [[-1]]),
            "HISTORY_ACTIONS": ("int64", [[0]]),
            "HISTORY_TIMESTAMPS": ("int64", [[0]]),
            "HISTORY_SURFACES": ("int64", [[0]]),
        },
    )


def test_an_empty_history_beside_a_longer_one_is_padding_only():
    arrays = encode([dataclasses.replace(FIRST, history=()), SECOND, FIRST])
    assert arrays["HISTORY_ITEM_IDS"].tolist() == [[-1, -1], [-5, -1], [11, 12]]


@pytest.mark.parametrize(
    "field", ["history", "request_time", "surface", "num_results", "outcome_weights", "utility_weights"]
)
def test_an_optional_field_is_set_for_all_users_or_for_none(field):
    unset = dataclasses.replace(SECOND, **{field: None})
    with pytest.raises(ValueError, match=f"^{field} is None for 1 of 2 users; allowed: for all or for none"):
        encode([FIRST, unset])
    assert set(encode([FIRST, SECOND])) > set(encode([unset, unset]))


def test_no_users_cannot_be_encoded():
    with pytest.raises(ValueError, match="requests is empty; allowed: 1 and more"):
        encode([])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"request_time": 2**63}, "REQUEST_TIME is 9223372036854775808; allowed: integers from -922"),
        ({"request_time": 12.5}, "REQUEST_TIME is 12.5; allowed: integers"),
        ({"surface": 2**63}, "SURFACE is 9223372036854775808; allowed: integers from -922"),
        ({"num_results": -(2**63) - 1}, "NUM_RESULTS is -9223372036854775809; allowed"),
        ({"exclude_item_ids": [1, -(2**63) - 1]}, "EXCLUDE_ITEM_IDS is -9223372036854775809; allowed"),
        (
            {"history": [Event(item_id=2**64, actions=0, timestamp=0)]},
            "HISTORY_ITEM_IDS is 18446744073709551616",
        ),
        (
            {"history": [Event(item_id=1, actions=0, timestamp=0, surface=2**80)]},
            "HISTORY_SURFACES is 1208925819614629174706176",
        ),
        ({"outcome_weights": ()}, r"OUTCOME_WEIGHTS has lengths \[0\]"),
        ({"utility_weights": (1e40, 0.0)}, r"UTILITY_WEIGHTS is 1e\+40; allowed"),
    ],
)
def test_values_without_an_encoding_are_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        encode([dataclasses.replace(FIRST, **changes)])


def test_rows_may_be_iterated_only_once():
    events = FIRST.history
    once = dataclasses.replace(
        FIRST,
        history=iter(events),
        exclude_item_ids=iter(FIRST.exclude_item_ids),
        outcome_weights=iter(FIRST.outcome_weights),
        utility_weights=np.array(FIRST.utility_weights, np.float32),
    )
    arrays = encode(iter([once]))
    assert {name: array.tolist() for name, array in arrays.items()} == {
        name: array.tolist() for name, array in encode([FIRST]).items()
    }


def test_weights_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match=r"^UTILITY_WEIGHTS has lengths \[1, 2\]"):
        encode([FIRST, dataclasses.replace(SECOND, utility_weights=(1.0,))])


def test_the_extremes_of_each_type_are_sent_unchanged():
    largest = dataclasses.replace(FIRST, request_time=2**63 - 1, surface=2**32, num_results=-(2**63))
    arrays = encode([largest])
    assert [arrays[n].item() for n in ("REQUEST_TIME", "SURFACE", "NUM_RESULTS")] == [
        9223372036854775807,
        4294967296,
        -9223372036854775808,
    ]


def test_ranges_are_left_to_the_server():
    arrays = encode([dataclasses.replace(FIRST, num_results=-3, utility_weights=(math.nan, -1.0))])
    assert arrays["NUM_RESULTS"].tolist() == [[-3]]
    assert math.isnan(arrays["UTILITY_WEIGHTS"][0, 0])
