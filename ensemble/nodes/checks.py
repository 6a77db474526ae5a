"""What tensors may hold: a request's at the edge of the graph, and those between nodes.

Nodes can be called one by one, and a number that names no row of a table would be an error on a CPU, and on a
GPU the end of the process.

Shapes: B users of one request, X values, N events, Q query embeddings, K candidates, A actions.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensemble.arrays import PADDING
from ensemble.nodes.contract import Arrays, InvalidInputError
from unipinrec.bundle import LARGEST_WEIGHT, Manifest
from unipinrec.data.limits import (
    LARGEST_ATTRIBUTE,
    LARGEST_CONTENT,
    LATEST_TIMESTAMP,
    LONGEST_EVENT_ID,
    LONGEST_TITLE,
    LONGEST_USER_ID,
    MOST_ATTRIBUTES,
)
from unipinrec.models.unified.config import UnifiedConfig

LATEST_TIME_S = 253_402_300_799
"""The last second of the year 9999."""

EVENTS = ("ITEM_IDS", "ACTIONS", "TIMESTAMPS")
"""What each event has, as the names of tensors end."""
PUT, REMOVE, CHECK_ONLY = OPERATIONS = (b"put", b"remove", b"check")
"""On items; a check changes nothing."""
HISTORY = tuple(f"HISTORY_{name}" for name in EVENTS)


def check_request(arrays: Arrays, model: UnifiedConfig, *, max_events: int, max_exclude: int) -> None:
    """Refuse what the contract does not allow. Raises `InvalidInputError`, which names the tensor, its value
    and the allowed range."""
    _check_bytes(arrays, "USER_ID", 0, LONGEST_USER_ID)
    _check_history(arrays, model, max_events)
    _check_range(arrays, "REQUEST_TIME", 0, LATEST_TIME_S)
    _check_context(arrays, model)
    if "OUTCOME_WEIGHTS" in arrays:
        empty_B = ~arrays["OUTCOME_WEIGHTS"].any(axis=1)
        if empty_B.any():
            raise InvalidInputError(
                f"OUTCOME_WEIGHTS is all 0 at user {int(empty_B.argmax())}; allowed: at least one above 0"
            )
    _check_width(arrays, "EXCLUDE_ITEM_IDS", 0, max_exclude)


def check_append(arrays: Arrays, model: UnifiedConfig, *, max_events: int) -> None:
    """Refuse events that the bundle would not read from a store. Raises `InvalidInputError`, as
    `check_request` does."""
    _check_bytes(arrays, "USER_ID", 1, LONGEST_USER_ID)
    _check_events(arrays, "", model, max_events, latest=LATEST_TIMESTAMP)
    _check_range(arrays, "ITEM_IDS", PADDING, 2**63 - 1, "event")
    total = int((arrays["ITEM_IDS"] != PADDING).sum())
    if total > max_events:
        raise InvalidInputError(f"ITEM_IDS has {total} events of all users; allowed: 0 to {max_events}")
    if "EVENT_IDS" in arrays:
        _check_bytes(arrays, "EVENT_IDS", 0, LONGEST_EVENT_ID, "event")


def check_updates(arrays: Arrays, content_dim: int) -> None:
    """Refuse changes of items that no dataset would hold, or whose content is not of the bundle's width, 0
    where it has none. Raises `InvalidInputError`, as `check_request` does."""
    _check_range(arrays, "ITEM_ID", 0, 2**63 - 1)
    for user, operation in enumerate(arrays["OPERATION"][:, 0]):
        if operation not in OPERATIONS:
            allowed = ", ".join(name.decode() for name in OPERATIONS)
            raise InvalidInputError(f"OPERATION is {operation!r:.40} at user {user}; allowed: {allowed}")
    if "TITLE" in arrays:
        _check_bytes(arrays, "TITLE", 0, LONGEST_TITLE)
        for user, title in enumerate(arrays["TITLE"][:, 0]):
            if not _is_text(title):
                raise InvalidInputError(f"TITLE is {title!r:.40} at user {user}; allowed: UTF-8")
    if "ATTRIBUTES" in arrays:
        _check_width(arrays, "ATTRIBUTES", 0, MOST_ATTRIBUTES)
        _check_range(arrays, "ATTRIBUTES", PADDING, LARGEST_ATTRIBUTE, "attribute")
        _check_padding(arrays, "ATTRIBUTES")
    if "CONTENT" in arrays:
        _check_width(arrays, "CONTENT", content_dim, content_dim)
        # NaN is not within the range either.
        wrong_BF = ~(np.abs(arrays["CONTENT"]) <= LARGEST_CONTENT)
        allowed = f"-{LARGEST_CONTENT} to {LARGEST_CONTENT}"
        _refuse_where(wrong_BF, "CONTENT", arrays["CONTENT"], allowed, "number")


def check_between(arrays: Arrays, manifest: Manifest) -> None:
    """Refuse what no node of this graph makes, of the tensors that nothing vouches for. Raises
    `InvalidInputError`, naming the tensor, its size or value and the allowed range."""
    model = manifest.model
    _check_context(arrays, model)
    _check_probabilities(arrays, "FIRST_PROBS", model.num_actions)
    if "CANDIDATE_ORIGINS" in arrays and arrays["CANDIDATE_ORIGINS"].shape != arrays["CANDIDATE_ITEMS"].shape:
        raise InvalidInputError("CANDIDATE_ORIGINS has another shape than CANDIDATE_ITEMS; allowed: the same")


def _check_context(arrays: Arrays, model: UnifiedConfig) -> None:
    _check_range(arrays, "SURFACE", 0, model.num_surfaces - 1)
    _check_range(arrays, "NUM_RESULTS", 1, model.max_candidates)
    for name in ("OUTCOME_WEIGHTS", "UTILITY_WEIGHTS"):
        _check_weights(arrays, name, model.num_actions)


def _check_history(arrays: Arrays, model: UnifiedConfig, max_events: int) -> None:
    given = [name for name in HISTORY if name in arrays]
    if not given:
        if "HISTORY_SURFACES" in arrays:
            raise InvalidInputError(
                "HISTORY_SURFACES is given without HISTORY_ITEM_IDS; allowed: beside a history only"
            )
        return
    if len(given) < len(HISTORY):
        missing = next(name for name in HISTORY if name not in arrays)
        raise InvalidInputError(f"{missing} is missing; allowed: {', '.join(HISTORY)} all three or none")
    _check_events(arrays, "HISTORY_", model, max_events, latest=LATEST_TIME_S)


def _check_events(arrays: Arrays, kind: str, model: UnifiedConfig, max_events: int, *, latest: int) -> None:
    """Refuse events of which a tensor is of another width or out of range, or whose times do not ascend. The
    names of their tensors begin with `kind`; `latest` is the last time that is allowed."""
    items = f"{kind}ITEM_IDS"
    _check_width(arrays, items, 0, max_events)
    expected = arrays[items].shape[1]
    for name in (f"{kind}{end}" for end in (*EVENTS[1:], "SURFACES", "EVENT_IDS")):
        if name in arrays and arrays[name].shape[1] != expected:
            raise InvalidInputError(
                f"{name} has {arrays[name].shape[1]} values; allowed: {expected}, as many as {items}"
            )
    real_BN = _check_padding(arrays, items)
    _check_range(arrays, f"{kind}ACTIONS", 0, 2**model.num_actions - 1, "event", real_BN)
    _check_range(arrays, f"{kind}TIMESTAMPS", 0, latest, "event", real_BN)
    _check_range(arrays, f"{kind}SURFACES", 0, model.num_surfaces - 1, "event", real_BN)
    timestamp_BN = arrays[f"{kind}TIMESTAMPS"]
    falls_BN = (timestamp_BN[:, 1:] < timestamp_BN[:, :-1]) & real_BN[:, 1:]
    if falls_BN.any():
        user, event = (int(axis[0]) for axis in np.nonzero(falls_BN))
        raise InvalidInputError(
            f"{kind}TIMESTAMPS is {timestamp_BN[user, event + 1]} at user {user}, event {event + 1}; "
            f"allowed: ascending, at least {timestamp_BN[user, event]}"
        )


def _check_bytes(arrays: Arrays, name: str, least: int, most: int, column: str = "") -> None:
    for place, value in np.ndenumerate(arrays[name]):
        if not least <= len(value) <= most:
            where = f" at user {place[0]}, {column} {place[1]}" if column else ""
            raise InvalidInputError(f"{name} has {len(value)} bytes{where}; allowed: {least} to {most}")


def _is_text(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _check_padding(arrays: Arrays, name: str) -> NDArray[np.bool_]:
    """Return which items are none of padding."""
    real_BX: NDArray[np.bool_] = arrays[name] != PADDING
    if (real_BX[:, 1:] & ~real_BX[:, :-1]).any():
        raise InvalidInputError(f"{name} is {PADDING} before another item; allowed: padding at the end only")
    return real_BX


def _check_probabilities(arrays: Arrays, name: str, num_actions: int) -> None:
    if name not in arrays:
        return
    expected = (*arrays["CANDIDATE_ITEMS"].shape, num_actions)
    probability_BKA = arrays[name]
    if probability_BKA.shape != expected:
        raise InvalidInputError(f"{name} has shape {probability_BKA.shape}; allowed: {expected}")
    if not ((probability_BKA >= 0) & (probability_BKA <= 1)).all():
        raise InvalidInputError(f"{name} is not a probability somewhere; allowed: 0 to 1")


def _check_weights(arrays: Arrays, name: str, num_actions: int) -> None:
    if name in arrays:
        weight_BA = arrays[name]
        if weight_BA.shape[1] != num_actions:
            raise InvalidInputError(
                f"{name} has {weight_BA.shape[1]} values; allowed: {num_actions}, one for each action"
            )
        # NaN is not within the range either.
        wrong_BA = ~((weight_BA >= 0) & (weight_BA <= LARGEST_WEIGHT))
        _refuse_where(wrong_BA, name, weight_BA, f"0 to {LARGEST_WEIGHT:g}", "action")


def _check_range(
    arrays: Arrays, name: str, low: int, high: int, column: str = "", real: NDArray[np.bool_] | None = None
) -> None:
    if name in arrays:
        wrong_BX = (arrays[name] < low) | (arrays[name] > high)
        if real is not None:
            wrong_BX &= real
        _refuse_where(wrong_BX, name, arrays[name], f"{low} to {high}", column)


def _check_width(arrays: Arrays, name: str, least: int, most: int) -> None:
    if name in arrays and not least <= arrays[name].shape[1] <= most:
        raise InvalidInputError(f"{name} has {arrays[name].shape[1]} values; allowed: {least} to {most}")


def _refuse_where(
    wrong_BX: NDArray[np.bool_], name: str, value_BX: NDArray[Any], allowed: str, column: str
) -> None:
    """`column` says what a place in a row is; empty where a row has one value."""
    if wrong_BX.any():
        user, place = (int(axis[0]) for axis in np.nonzero(wrong_BX))
        where = f"user {user}, {column} {place}" if column else f"user {user}"
        raise InvalidInputError(f"{name} is {value_BX[user, place]!s} at {where}; allowed: {allowed}")
