"""Answers as lines of a log from which a policy of utility weights is learned."""

import time
from dataclasses import asdict
from typing import Any

from unipinrec_client.types import RecommendRequest, RecommendResponse
from unipinrec_client.values import user_id_bytes


def exploration_record(request: RecommendRequest, response: RecommendResponse) -> dict[str, Any]:
    """Return what was served and why, as a JSON object that `unipinrec policy join` reads, one a line.

    Make it when the answer comes: where the request left its time to the server, `timestamp` is that of this
    call. Raises `ValueError` for a user id that is no UTF-8 text.
    """
    timestamp, surface, decision = request.request_time, request.surface, response.policy
    return {
        "request_id": response.request_id,
        "user_id": _text(user_id_bytes(request.user_id)),
        "timestamp": int(time.time()) if timestamp is None else int(timestamp),
        "surface": 0 if surface is None else int(surface),
        "item_ids": [item.item_id for item in response.recommendations],
        "utility_weights": list(response.utility_weights),
        "decision": {} if decision is None else {k: v for k, v in asdict(decision).items() if v is not None},
    }


def _text(user_id: bytes) -> str:
    try:
        return user_id.decode()
    except UnicodeDecodeError:
        raise ValueError(f"user_id is {user_id!r:.100}; allowed in a log: UTF-8 text") from None
