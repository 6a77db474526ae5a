"""Checks a request's tensors at the edge of the graph; every later node may trust them.

Shapes: B users of one request, N events, A actions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensemble.arrays import PADDING
from ensemble.nodes.contract import LARGEST_WEIGHT, Arrays, InvalidInputError
from unipinrec.data.limits import LONGEST_USER_ID

LATEST_TIME_S = 253_402_300_799
"""The last second of the year 9999."""

HISTORY = ("HISTORY_ITEM_IDS", "HISTORY_ACTIONS", "HISTORY_TIMESTAMPS")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a bundle and a server's settings allow."""

    num_actions: int
    num_surfaces: int
    max_candidates: int
    max_events: int
    max_exclude: int


def check_request(arrays: Arrays, limits: Limits) -> None:
    """Refuse what the contract does not allow.

    Raises:
        InvalidInputError: naming the tensor, its value and the allowed range.
    """
    for user_id in arrays["USER_ID"].ravel():
        if len(user_id) > LONGEST_USER_ID:
            raise InvalidInputError(f"USER_ID has {len(user_id)} bytes; allowed: 0 to {LONGEST_USER_ID}")
    _check_history(arrays, limits)
    _check_range(arrays, "REQUEST_TIME", 0, LATEST_TIME_S)
    _check_range(arrays, "SURFACE", 0, limits.num_surfaces - 1)
    _check_range(arrays, "NUM_RESULTS", 1, limits.max_candidates)
    for name in ("OUTCOME_WEIGHTS", "UTILITY_WEIGHTS"):
        _check_weights(arrays, name, limits.num_actions)
    _check_budget(arrays)
    _check_width(arrays, "EXCLUDE_ITEM_IDS", limits.max_exclude)


def _check_history(arrays: Arrays, limits: Limits) -> None:
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
    _check_width(arrays, "HISTORY_ITEM_IDS", limits.max_events)
    _check_lengths(arrays)
    real_BN = arrays["HISTORY_ITEM_IDS"] != PADDING
    if (real_BN[:, 1:] & ~real_BN[:, :-1]).any():
        raise InvalidInputError(
            f"HISTORY_ITEM_IDS is {PADDING} before another item; allowed: padding at the end only"
        )
    _check_range(arrays, "HISTORY_ACTIONS", 0, 2**limits.num_actions - 1, real_BN)
    _check_range(arrays, "HISTORY_TIMESTAMPS", 0, LATEST_TIME_S, real_BN)
    _check_range(arrays, "HISTORY_SURFACES", 0, limits.num_surfaces - 1, real_BN)
    _check_ascending(arrays["HISTORY_TIMESTAMPS"], real_BN)


def _check_lengths(arrays: Arrays) -> None:
    expected = arrays["HISTORY_ITEM_IDS"].shape[1]
    for name in (*HISTORY[1:], "HISTORY_SURFACES"):
        if name in arrays and arrays[name].shape[1] != expected:
            raise InvalidInputError(
                f"{name} has {arrays[name].shape[1]} values; allowed: {expected}, as many as HISTORY_ITEM_IDS"
            )


def _check_ascending(timestamp_BN: NDArray[Any], real_BN: NDArray[np.bool_]) -> None:
    falls_BN = (timestamp_BN[:, 1:] < timestamp_BN[:, :-1]) & real_BN[:, 1:]
    if falls_BN.any():
        user, event = (int(axis[0]) for axis in np.nonzero(falls_BN))
        raise InvalidInputError(
            f"HISTORY_TIMESTAMPS is {timestamp_BN[user, event + 1]} at user {user}, event {event + 1}; "
            f"allowed: ascending, at least {timestamp_BN[user, event]}"
        )


def _check_range(
    arrays: Arrays, name: str, low: int, high: int, counted: NDArray[np.bool_] | None = None
) -> None:
    if name not in arrays:
        return
    values = arrays[name]
    wrong = (values < low) | (values > high)
    if counted is not None:
        wrong &= counted
    if wrong.any():
        position = [int(axis[0]) for axis in np.nonzero(wrong)]
        raise InvalidInputError(
            f"{name} is {values[tuple(position)]}{_where(position, counted)}; allowed: {low} to {high}"
        )


def _where(position: Sequence[int], counted: NDArray[np.bool_] | None) -> str:
    user = f" at user {position[0]}"
    return user if counted is None else f"{user}, event {position[1]}"


def _check_weights(arrays: Arrays, name: str, num_actions: int) -> None:
    if name not in arrays:
        return
    values = arrays[name]
    if values.shape[1] != num_actions:
        raise InvalidInputError(
            f"{name} has {values.shape[1]} values; allowed: {num_actions}, one for each action"
        )
    # NaN is not within the range either.
    wrong = ~((values >= 0) & (values <= LARGEST_WEIGHT))
    if wrong.any():
        user, action = (int(axis[0]) for axis in np.nonzero(wrong))
        raise InvalidInputError(
            f"{name} is {values[user, action]!s} at user {user}, action {action}; "
            f"allowed: 0 to {LARGEST_WEIGHT:g}"
        )


def _check_budget(arrays: Arrays) -> None:
    if "OUTCOME_WEIGHTS" in arrays:
        empty_B = ~arrays["OUTCOME_WEIGHTS"].any(axis=1)
        if empty_B.any():
            raise InvalidInputError(
                f"OUTCOME_WEIGHTS is all 0 at user {int(empty_B.argmax())}; allowed: at least one above 0"
            )


def _check_width(arrays: Arrays, name: str, most: int) -> None:
    if name in arrays and arrays[name].shape[1] > most:
        raise InvalidInputError(f"{name} has {arrays[name].shape[1]} values; allowed: 0 to {most}")
