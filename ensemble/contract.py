"""The tensors of the serving graph, what they may hold, and how rows become padded batches and back.

Shapes: B users of one request, N events, A actions, X item rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unipinrec.config import ModelConfig
from unipinrec.data.history import UNKNOWN_ROW, History

Arrays = Mapping[str, NDArray[Any]]
"""Tensors of one request by name, batch axis first; optional ones may be absent."""

Int64s = NDArray[np.int64]
Floats = NDArray[np.float32]

PADDING = UNKNOWN_ROW
"""Item ids and item rows at or beyond the end of a shorter row."""

PARALLEL = {
    "EVENT_ACTIONS": "EVENT_ITEMS",
    "EVENT_TIMESTAMPS": "EVENT_ITEMS",
    "EVENT_SURFACES": "EVENT_ITEMS",
    "CANDIDATE_ORIGINS": "CANDIDATE_ITEMS",
}
"""Tensors between nodes that have a value for each item row of another one."""


class InvalidInputError(ValueError):
    """A request that the contract refuses; the message names the tensor, its value and the allowed range."""


class BundleMismatchError(RuntimeError):
    """Two nodes of the graph serve different bundles, as happens for a moment while one is replaced."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What a request says besides its history, with defaults filled in."""

    request_time: int
    surface: int
    num_results: int
    outcome_weight_A: Floats
    utility_weight_A: Floats


def stack(rows: Sequence[NDArray[Any]], padding: float) -> NDArray[Any]:
    """Rows that differ in their first axis to one array [B, longest, ...], padded at the end.

    At least one column wide: a server does not carry tensors without elements.
    """
    width = max(1, *(len(row) for row in rows))
    stacked = np.full((len(rows), width, *rows[0].shape[1:]), padding, rows[0].dtype)
    for index, row in enumerate(rows):
        stacked[index, : len(row)] = row
    return stacked


def stack_histories(histories: Sequence[History]) -> dict[str, NDArray[Any]]:
    """Histories to the tensors that the graph carries."""
    return {
        "EVENT_ITEMS": stack([history.item_row_N for history in histories], PADDING),
        "EVENT_ACTIONS": stack([history.actions_N for history in histories], 0),
        "EVENT_TIMESTAMPS": stack([history.timestamp_N for history in histories], 0),
        "EVENT_SURFACES": stack([history.surface_N for history in histories], 0),
    }


def unstack_histories(arrays: Arrays) -> list[History]:
    """The inverse of `stack_histories`."""
    histories = []
    for row, item_row_N in enumerate(arrays["EVENT_ITEMS"]):
        length = int((item_row_N != PADDING).sum())
        histories.append(
            History(
                item_row_N=item_row_N[:length],
                actions_N=arrays["EVENT_ACTIONS"][row, :length],
                timestamp_N=arrays["EVENT_TIMESTAMPS"][row, :length],
                surface_N=arrays["EVENT_SURFACES"][row, :length],
            )
        )
    return histories


def check_bundle(arrays: Arrays, bundle_id: str) -> None:
    """Refuse tensors that a node of another bundle made.

    Raises:
        BundleMismatchError: at least one BUNDLE_ID differs from `bundle_id`.
    """
    for found in np.unique(arrays["BUNDLE_ID"].ravel()):
        if found.decode() != bundle_id:
            raise BundleMismatchError(
                f"BUNDLE_ID is {found.decode()}; this node serves {bundle_id}. Try again"
            )


def check_sizes(arrays: Arrays, model: ModelConfig) -> None:
    """Refuse tensors between nodes that no node of this graph makes: the nodes can be called one by one.

    Raises:
        InvalidInputError: naming the tensor, its size or value and the allowed range.
    """
    for name, most in (("EVENT_ITEMS", model.max_history), ("CANDIDATE_ITEMS", model.max_candidates)):
        if name in arrays:
            _check_item_rows(name, arrays[name], most, model.num_items)
    for name, other in PARALLEL.items():
        if name in arrays and arrays[name].shape != arrays[other].shape:
            raise InvalidInputError(f"{name} has another shape than {other}; allowed: the same")
    if "QUERY_EMBEDDINGS" in arrays and arrays["QUERY_EMBEDDINGS"].shape[2] != model.item_dim:
        width = arrays["QUERY_EMBEDDINGS"].shape[2]
        raise InvalidInputError(f"QUERY_EMBEDDINGS has width {width}; allowed: {model.item_dim}")
    if "QUERY_BUDGETS" in arrays:
        budget_BQ = arrays["QUERY_BUDGETS"]
        for name in ("QUERY_EMBEDDINGS", "QUERY_ORIGINS"):
            if arrays[name].shape[:2] != budget_BQ.shape:
                raise InvalidInputError(f"{name} has another shape than QUERY_BUDGETS; allowed: the same")
        for total in np.where(budget_BQ >= 0, budget_BQ, model.max_candidates + 1).sum(axis=1).tolist():
            if not 1 <= total <= model.max_candidates:
                raise InvalidInputError(
                    f"QUERY_BUDGETS adds up to {total}; allowed: 1 to {model.max_candidates}, none negative"
                )
    if "OUTCOME_WEIGHTS" in arrays:
        weight_BA = arrays["OUTCOME_WEIGHTS"]
        if weight_BA.shape[1] != model.num_actions or not (np.isfinite(weight_BA) & (weight_BA >= 0)).all():
            raise InvalidInputError(
                f"OUTCOME_WEIGHTS is wrong; allowed: {model.num_actions} finite, 0 or more"
            )
    if "NUM_RESULTS" in arrays:
        for asked in arrays["NUM_RESULTS"].ravel():
            if not 1 <= asked <= model.max_candidates:
                raise InvalidInputError(f"NUM_RESULTS is {asked}; allowed: 1 to {model.max_candidates}")


def _check_item_rows(name: str, item_row_BX: NDArray[Any], most: int, num_items: int) -> None:
    """Refuse rows that are of no item: vectors are gathered by them, and negative ones count from the end."""
    count = item_row_BX.shape[1]
    if not 1 <= count <= most:
        raise InvalidInputError(f"{name} has {count} values; allowed: 1 to {most}")
    wrong_BX = (item_row_BX < PADDING) | (item_row_BX >= num_items)
    if wrong_BX.any():
        user, place = (int(axis[0]) for axis in np.nonzero(wrong_BX))
        raise InvalidInputError(
            f"{name} is {item_row_BX[user, place]} at user {user}, place {place}; "
            f"allowed: 0 to {num_items - 1}, and {PADDING} for padding"
        )
    padding_BX = item_row_BX == PADDING
    if (padding_BX[:, :-1] & ~padding_BX[:, 1:]).any():
        raise InvalidInputError(f"{name} is {PADDING} before another item; allowed: padding at the end only")


def stamp_bundle(bundle_id: str, users: int) -> NDArray[np.object_]:
    """The bundle's id for every user of a request, BYTES [B, 1]."""
    return np.full((users, 1), bundle_id.encode(), dtype=np.object_)
