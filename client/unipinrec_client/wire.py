"""The tensors that carry requests and responses."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import numpy.typing as npt

from unipinrec_client.errors import RecommendError
from unipinrec_client.types import (
    AppendRequest,
    AppendResponse,
    Event,
    PolicyDecision,
    Recommendation,
    RecommendRequest,
    RecommendResponse,
)
from unipinrec_client.values import (
    checked_events,
    checked_integers,
    checked_requests,
    checked_weights,
    event_id_bytes,
    user_id_bytes,
)

# B requests, N entries of the longest row, K results of the longest row, A actions

Arrays = dict[str, npt.NDArray[Any]]

PADDING_ITEM_ID = -1

TRITON_TYPES = {
    "USER_ID": "BYTES",
    "HISTORY_ITEM_IDS": "INT64",
    "HISTORY_ACTIONS": "INT64",
    "HISTORY_TIMESTAMPS": "INT64",
    "HISTORY_SURFACES": "INT64",
    "REQUEST_TIME": "INT64",
    "SURFACE": "INT64",
    "NUM_RESULTS": "INT64",
    "OUTCOME_WEIGHTS": "FP32",
    "UTILITY_WEIGHTS": "FP32",
    "EXCLUDE_ITEM_IDS": "INT64",
    "ITEM_IDS": "INT64",
    "ACTIONS": "INT64",
    "TIMESTAMPS": "INT64",
    "SURFACES": "INT64",
    "EVENT_IDS": "BYTES",
}
"""Triton's type of every input."""

_EVENT_FIELDS = {
    "ITEM_IDS": "item_id",
    "ACTIONS": "actions",
    "TIMESTAMPS": "timestamp",
    "SURFACES": "surface",
}

# Requests name no outputs, and so get all: asking an ensemble for fewer than it declares can fail with
# "unexpected deadlock", and asking an older server for one that it does not have fails always.
OUTPUT_RANKS = {
    "ITEM_IDS": 2,
    "SCORES": 2,
    "ACTION_PROBS": 3,
    "FIRST_ACTION_PROBS": 3,
    "RETRIEVED_BY": 2,
    "KV_SOURCE": 2,
    "USED_UTILITY_WEIGHTS": 2,
    "UTILITY_SOURCE": 2,
    "POLICY_DECISION": 2,
    "BUNDLE_ID": 2,
}
"""Number of dimensions of every output, the batch included."""

APPEND_RANKS = {"STORED": 2, "DUPLICATES": 2}
"""Those of the model `append_events`."""

DECISION = "POLICY_DECISION"
"""Servers from before there were policies do not have it."""
FIRST_PROBABILITIES = "FIRST_ACTION_PROBS"
"""Models with one ranker do not have it."""


def encode(requests: Iterable[RecommendRequest]) -> Arrays:
    """Return the input tensors of one Triton request for all users, keyed by tensor name.

    Shapes are [B,1] for scalars, [B,N] for histories and exclusions and [B,A] for weights; optional
    tensors that no request sets are left out. Rows are padded at the end with item id -1 and zeros. An empty
    history becomes one padded entry, because a tensor of width 0 does not pass every protocol; the server
    ignores padding, so it reads as no history.

    Raises `ValueError` for values that have no encoding: no users, an optional field set for some users
    only, values of another type, integers beyond the tensor's type, weights of different lengths.
    """
    requests = checked_requests(requests, RecommendRequest)
    ids = [[user_id_bytes(request.user_id)] for request in requests]
    arrays: Arrays = {"USER_ID": np.array(ids, dtype=np.object_)}
    histories = _of_all_or_none("history", requests)
    if histories is not None:
        events = [checked_events("history", history) for history in histories]
        arrays |= _event_columns("HISTORY_", events)
    for name in ("REQUEST_TIME", "SURFACE", "NUM_RESULTS"):
        scalars = _of_all_or_none(name.lower(), requests)
        if scalars is not None:
            arrays[name] = _integers(name, [[value] for value in scalars])
    for name in ("OUTCOME_WEIGHTS", "UTILITY_WEIGHTS"):
        weights = _of_all_or_none(name.lower(), requests)
        if weights is not None:
            arrays[name] = _weights(name, weights)
    excluded = [() if r.exclude_item_ids is None else r.exclude_item_ids for r in requests]
    exclusions = [checked_integers("EXCLUDE_ITEM_IDS", ids) for ids in excluded]
    if any(exclusions):
        arrays["EXCLUDE_ITEM_IDS"] = _padded(exclusions, PADDING_ITEM_ID)
    return arrays


def encode_append(requests: Iterable[AppendRequest]) -> Arrays:
    """Return the input tensors of one Triton request to `append_events` for all users, keyed by tensor name.

    USER_ID is [B,1], the events' columns are [B,N], padded at the end with item id -1 and zeros; EVENT_IDS
    is left out where no event has one. Raises `ValueError` for values that have no encoding: no users, values
    of another type, integers beyond the tensor's type.
    """
    requests = checked_requests(requests, AppendRequest)
    ids = [[user_id_bytes(request.user_id)] for request in requests]
    events = [checked_events("events", request.events) for request in requests]
    arrays: Arrays = {"USER_ID": np.array(ids, dtype=np.object_), **_event_columns("", events)}
    names = [[event_id_bytes(event.event_id) for event in row] for row in events]
    if any(map(any, names)):
        arrays["EVENT_IDS"] = np.full(arrays["ITEM_IDS"].shape, b"", np.object_)
        for row, values in enumerate(names):
            arrays["EVENT_IDS"][row, : len(values)] = values
    return arrays


def decode_append(
    arrays: Mapping[str, npt.NDArray[Any] | None], requests: Sequence[AppendRequest], request_id: str = ""
) -> tuple[AppendResponse, ...]:
    """Return one response per request, in their order. `arrays` holds STORED and DUPLICATES [B,1]. Raises
    `RecommendError` if one is missing or of another shape."""
    stored, duplicates = (
        _output(name, arrays.get(name), len(requests), rank) for name, rank in APPEND_RANKS.items()
    )
    return tuple(
        AppendResponse(
            user_id=request.user_id,
            stored=int(stored[row, 0]),
            duplicates=int(duplicates[row, 0]),
            request_id=request_id,
        )
        for row, request in enumerate(requests)
    )


def decode(
    arrays: Mapping[str, npt.NDArray[Any] | None], requests: Sequence[RecommendRequest], request_id: str = ""
) -> tuple[RecommendResponse, ...]:
    """Return one response per request, in their order, without padding.

    `arrays` holds ITEM_IDS, SCORES and RETRIEVED_BY [B,K], ACTION_PROBS and, behind two rankers,
    FIRST_ACTION_PROBS [B,K,A], USED_UTILITY_WEIGHTS [B,A], KV_SOURCE, UTILITY_SOURCE, BUNDLE_ID and, unless
    the server is older, POLICY_DECISION [B,1]. Raises `RecommendError` if one is missing, of another shape or
    no decision.
    """
    found = {name: arrays.get(name) for name in OUTPUT_RANKS}
    if found[DECISION] is None:
        found[DECISION] = np.full((len(requests), 1), b"{}", np.object_)
    if found[FIRST_PROBABILITIES] is None:
        del found[FIRST_PROBABILITIES]
    outputs = {name: _output(name, array, len(requests), OUTPUT_RANKS[name]) for name, array in found.items()}
    width = outputs["ITEM_IDS"].shape[1]
    for name in ("SCORES", "ACTION_PROBS", FIRST_PROBABILITIES, "RETRIEVED_BY"):
        if name in outputs and outputs[name].shape[1] != width:
            raise RecommendError(f"{name} has shape {outputs[name].shape}; allowed: {width} results a user")
    return tuple(
        RecommendResponse(
            user_id=request.user_id,
            recommendations=_recommendations(outputs, row),
            kv_source=_text(outputs["KV_SOURCE"], row),
            bundle_id=_text(outputs["BUNDLE_ID"], row),
            utility_weights=tuple(outputs["USED_UTILITY_WEIGHTS"][row].tolist()),
            utility_source=_text(outputs["UTILITY_SOURCE"], row),
            policy=_decision(_text(outputs["POLICY_DECISION"], row)),
            request_id=request_id,
        )
        for row, request in enumerate(requests)
    )


def _of_all_or_none(field: str, requests: Sequence[RecommendRequest]) -> list[Any] | None:
    values = [getattr(request, field) for request in requests]
    missing = sum(value is None for value in values)
    if missing == len(values):
        return None
    if missing:
        raise ValueError(
            f"{field} is None for {missing} of {len(values)} users; allowed: for all or for none"
        )
    return values


def _event_columns(kind: str, events: Sequence[Sequence[Event]]) -> Arrays:
    """The columns of each user's events, as tensors whose names begin with `kind`."""
    return {
        f"{kind}{name}": _integers(
            f"{kind}{name}",
            [[getattr(event, field) for event in row] for row in events],
            PADDING_ITEM_ID if field == "item_id" else 0,
        )
        for name, field in _EVENT_FIELDS.items()
    }


def _integers(name: str, rows: Sequence[Any], padding: int = 0) -> npt.NDArray[np.int64]:
    return _padded([checked_integers(name, values) for values in rows], padding)


def _padded(rows: list[list[Any]], padding: int) -> npt.NDArray[np.int64]:
    width = max(1, *(len(row) for row in rows))
    array_BN = np.full((len(rows), width), padding, dtype=np.int64)
    for row, values in enumerate(rows):
        array_BN[row, : len(values)] = values
    return array_BN


def _weights(name: str, rows: list[Any]) -> npt.NDArray[np.float32]:
    found = [checked_weights(name, row) for row in rows]
    lengths = sorted({len(row) for row in found})
    if len(lengths) > 1 or lengths[0] == 0:
        raise ValueError(
            f"{name} has lengths {lengths}; allowed: one weight per action, as many for every user"
        )
    return np.array(found, dtype=np.float32)


def _output(name: str, array: npt.NDArray[Any] | None, batch: int, rank: int) -> npt.NDArray[Any]:
    if array is None:
        raise RecommendError(f"{name} is missing from the server's answer")
    if array.ndim != rank or array.shape[0] != batch:
        raise RecommendError(f"{name} has shape {array.shape}; allowed: {rank} dimensions, {batch} users")
    return array


def _recommendations(outputs: Arrays, row: int) -> tuple[Recommendation, ...]:
    names = ("ITEM_IDS", "SCORES", "ACTION_PROBS", "RETRIEVED_BY")
    item_ids, *columns = (outputs[name][row].tolist() for name in names)
    first = outputs[FIRST_PROBABILITIES][row].tolist() if FIRST_PROBABILITIES in outputs else None
    return tuple(
        Recommendation(
            item_id=item_id,
            score=score,
            action_probabilities=tuple(probabilities),
            retrieved_by=retrieved_by,
            first_action_probabilities=None if first is None else tuple(first[place]),
        )
        for place, (item_id, score, probabilities, retrieved_by) in enumerate(
            zip(item_ids, *columns, strict=True)
        )
        if item_id != PADDING_ITEM_ID
    )


def _decision(text: str) -> PolicyDecision | None:
    try:
        told = json.loads(text)
    except ValueError:
        told = None
    if not isinstance(told, dict):
        raise RecommendError(f"POLICY_DECISION is {text!r:.100}; allowed: a JSON object")
    # A newer server may tell more.
    known = {field.name: told[field.name] for field in fields(PolicyDecision) if field.name in told}
    return PolicyDecision(**known) if known else None


def _text(array_B1: npt.NDArray[Any], row: int) -> str:
    if array_B1.shape[1] != 1:
        raise RecommendError(f"a text output has shape {array_B1.shape}; allowed: 1 value a user")
    value = array_B1[row, 0]
    return value.decode() if isinstance(value, bytes) else str(value)
