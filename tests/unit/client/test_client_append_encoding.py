"""Golden tensors of appended events, written by hand against the contract."""

import dataclasses

import numpy as np
import pytest
from unipinrec_client import (
    AppendRequest,
    AppendResponse,
    RecommendError,
)
from unipinrec_client.wire import decode_append, encode_append

from tests.unit.client.wire_requests import EVENT, FIRST


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
