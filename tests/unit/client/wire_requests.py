"""Requests whose tensors are written by hand."""

import dataclasses

from unipinrec_client import (
    Event,
    RecommendRequest,
)

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


EVENT = Event(item_id=1, actions=0, timestamp=0)
