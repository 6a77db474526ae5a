"""Which values of a request are taken, and by which names others are refused."""

import dataclasses

import numpy as np
import pytest
from unipinrec_client import (
    RecommendRequest,
)
from unipinrec_client.wire import encode

from tests.unit.client.wire_requests import EVENT, FIRST


class Unreadable:
    def __repr__(self):
        return "two\nlines" + "x" * 500


@pytest.mark.parametrize(
    ("user_id", "sent"),
    [
        ("42", b"42"),
        (b"\xff", b"\xff"),
        (42, b"42"),
        (-7, b"-7"),
        (2**70, b"1180591620717411303424"),
        (np.int64(42), b"42"),
        (np.uint64(2**64 - 1), b"18446744073709551615"),
        (np.str_("é"), b"\xc3\xa9"),
        (np.bytes_(b"42"), b"42"),
    ],
)
def test_a_user_id_is_text_bytes_or_an_integer(user_id, sent):
    (found,) = encode([RecommendRequest(user_id=user_id)])["USER_ID"].ravel()
    assert type(found) is bytes
    assert found == sent


@pytest.mark.parametrize(
    "user_id", [None, True, np.True_, 42.0, np.float64(42), [42], ("42",), bytearray(b"42")]
)
def test_another_user_id_is_refused(user_id):
    with pytest.raises(ValueError, match=r"; allowed: text, bytes or an integer$") as refused:
        encode([FIRST, RecommendRequest(user_id=user_id)])
    assert str(refused.value).startswith(f"user_id is {user_id!r}")


@pytest.mark.parametrize(
    "ids", [[3, 5], (3, 5), {3, 5}, frozenset({3, 5}), {3: 1, 5: 1}.keys(), np.array([3, 5]), range(3, 7, 2)]
)
def test_excluded_items_may_be_any_collection_of_integers(ids):
    assert sorted(encode([RecommendRequest(user_id="1", exclude_item_ids=ids)])["EXCLUDE_ITEM_IDS"][0]) == [
        3,
        5,
    ]


@pytest.mark.parametrize("ids", [None, (), [], set(), np.array([], np.int64), range(0)])
def test_no_excluded_items_are_not_sent(ids):
    assert set(encode([RecommendRequest(user_id="1", exclude_item_ids=ids)])) == {"USER_ID"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"request_time": "5"}, "REQUEST_TIME is '5'; allowed: integers from"),
        ({"surface": True}, "SURFACE is True; allowed: integers from"),
        ({"num_results": np.float64(5)}, "NUM_RESULTS is .*5.0.*; allowed: integers from"),
        ({"num_results": [5]}, r"NUM_RESULTS is \[5\]; allowed: integers from"),
        ({"num_results": Unreadable()}, "NUM_RESULTS is two linesx{91}…; allowed: integers from"),
        ({"exclude_item_ids": 5}, "EXCLUDE_ITEM_IDS is 5; allowed: a collection of integers from"),
        ({"exclude_item_ids": np.array(5)}, r"EXCLUDE_ITEM_IDS is array\(5\); allowed: a collection of"),
        ({"exclude_item_ids": b"12"}, "EXCLUDE_ITEM_IDS is b'12'; allowed: a collection of integers from"),
        ({"exclude_item_ids": {5: "a"}}, "EXCLUDE_ITEM_IDS is {5: 'a'}; allowed: a collection of integers"),
        ({"exclude_item_ids": {1, None}}, "EXCLUDE_ITEM_IDS is None; allowed: integers from"),
        ({"exclude_item_ids": np.array([1.5])}, "EXCLUDE_ITEM_IDS is .*1.5.*; allowed: integers from"),
        ({"outcome_weights": 0.5}, "OUTCOME_WEIGHTS is 0.5; allowed: a sequence of numbers, one per action"),
        ({"outcome_weights": {0.5, 1.0}}, "OUTCOME_WEIGHTS is {0.5, 1.0}; allowed: a sequence of numbers"),
        ({"utility_weights": "12"}, "UTILITY_WEIGHTS is '12'; allowed: a sequence of numbers"),
        ({"utility_weights": {"like": 1.0}}, "UTILITY_WEIGHTS is {'like': 1.0}; allowed: a sequence of"),
        ({"utility_weights": ["1", "2"]}, "UTILITY_WEIGHTS is '1'; allowed: numbers from"),
        ({"utility_weights": [1.0, None]}, "UTILITY_WEIGHTS is None; allowed: numbers from"),
        ({"utility_weights": [True, False]}, "UTILITY_WEIGHTS is True; allowed: numbers from"),
        ({"utility_weights": [10**400, 1]}, "UTILITY_WEIGHTS is 10000.*…; allowed: numbers from"),
        ({"history": EVENT}, r"history is Event\(.*; allowed: a sequence of Event, oldest first, or None"),
        ({"history": {EVENT}}, r"history is {Event\(.*; allowed: a sequence of Event, oldest first"),
        ({"history": [EVENT, {"item_id": 1}]}, r"history\[1\] is {'item_id': 1}; allowed: an Event"),
        ({"history": "[]"}, r"history is '\[\]'; allowed: a sequence of Event"),
        (
            {"history": [dataclasses.replace(EVENT, actions=None)]},
            "HISTORY_ACTIONS is None; allowed: integers from",
        ),
    ],
)
def test_values_of_another_type_are_refused_by_name_in_one_line(changes, message):
    with pytest.raises(ValueError, match=f"^{message}") as refused:
        encode([dataclasses.replace(FIRST, **changes)])
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("request_", ["42", {"user_id": "42"}, None])
def test_what_is_no_request_is_refused_with_its_place(request_):
    with pytest.raises(ValueError, match=r"^requests\[1\] is .*; allowed: RecommendRequest$"):
        encode([FIRST, request_])
