"""Golden tensors written by hand against the serving graph's contract."""

import dataclasses
import math

import numpy as np
import pytest
from unipinrec_client import (
    AppendRequest,
    AppendResponse,
    Event,
    PolicyDecision,
    Recommendation,
    RecommendError,
    RecommendRequest,
    RecommendResponse,
)
from unipinrec_client.wire import decode, decode_append, encode, encode_append

FIRST = RecommendRequest(
    user_id="ada",
    history=[
        Event(item_id=11, actions=0b101, timestamp=1000, surface=2),
        Event(item_id=12, actions=1, timestamp=1001),
    ],
    request_time=2000,
    surface=1,
    num_results=3,
    outcome_weights=(0.5, 0.25),
    utility_weights=(1.0, 2.0),
    exclude_item_ids=(7, 8),
)
SECOND = dataclasses.replace(
    FIRST,
    user_id=b"\xff\x00",
    history=[Event(item_id=-5, actions=2, timestamp=9)],
    request_time=2001,
    surface=0,
    num_results=4,
    exclude_item_ids=(),
)


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


class Unreadable:
    def __repr__(self):
        return "two\nlines" + "x" * 500


EVENT = Event(item_id=1, actions=0, timestamp=0)


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


def appended(*events, user_id="42"):
    return AppendRequest(user_id=user_id, events=events)


def test_appended_events_are_columns_padded_at_the_end():
    later = dataclasses.replace(EVENT, event_id="a", timestamp=EVENT.timestamp + 1)
    arrays = encode_append([appended(EVENT, later), appended(user_id=7), appended(EVENT, user_id=b"x")])
    assert {name: array.tolist() for name, array in arrays.items()} == {
        "USER_ID": [[b"42"], [b"7"], [b"x"]],
        "ITEM_IDS": [[EVENT.item_id] * 2, [-1, -1], [EVENT.item_id, -1]],
        "ACTIONS": [[EVENT.actions] * 2, [0, 0], [EVENT.actions, 0]],
        "TIMESTAMPS": [[EVENT.timestamp, EVENT.timestamp + 1], [0, 0], [EVENT.timestamp, 0]],
        "SURFACES": [[EVENT.surface] * 2, [0, 0], [EVENT.surface, 0]],
        "EVENT_IDS": [[b"", b"a"], [b"", b""], [b"", b""]],
    }
    assert "EVENT_IDS" not in encode_append([appended(EVENT)])


@pytest.mark.parametrize(
    ("requests", "message"),
    [
        ([], "requests is empty"),
        ([FIRST], r"requests\[0\] is .*; allowed: AppendRequest"),
        ([appended(7)], r"events\[0\] is 7; allowed: an Event"),
        (
            [AppendRequest(user_id="42", events=None)],
            "events is None; allowed: a sequence of Event, oldest first$",
        ),
        ([appended(dataclasses.replace(EVENT, item_id=2**63))], "ITEM_IDS is 9223372036854775808; allowed"),
        ([appended(dataclasses.replace(EVENT, event_id=7))], "event_id is 7; allowed: text"),
        ([appended(dataclasses.replace(EVENT, event_id="\ud800"))], "event_id is '.ud800'; allowed: text"),
    ],
)
def test_appended_events_without_an_encoding_are_refused_by_name(requests, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        encode_append(requests)


def test_what_became_of_appended_events_is_told_for_each_user():
    requests = [appended(EVENT), appended(user_id=7)]
    arrays = {"STORED": np.array([[1], [0]]), "DUPLICATES": np.array([[2], [3]]), "ITEM_IDS": None}
    assert decode_append(arrays, requests) == (
        AppendResponse(user_id="42", stored=1, duplicates=2),
        AppendResponse(user_id=7, stored=0, duplicates=3),
    )
    for wrong in ({"STORED": None}, {"DUPLICATES": np.zeros((3, 1))}, {"STORED": np.zeros(2)}):
        with pytest.raises(RecommendError, match=f"^{next(iter(wrong))} "):
            decode_append(arrays | wrong, requests)
