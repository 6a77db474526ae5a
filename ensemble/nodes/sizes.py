"""What the tensors between nodes may hold: the nodes can be called one by one.

A number that names no row of a table would be an error on a CPU, and on a GPU the end of the process.

Shapes: B users of one request, X values, Q query embeddings, K candidates, A actions.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensemble.arrays import PADDING
from ensemble.nodes.contract import LARGEST_WEIGHT, Arrays, InvalidInputError
from unipinrec.models.unified.config import UnifiedConfig

PARALLEL = {
    "EVENT_ACTIONS": "EVENT_ITEMS",
    "EVENT_TIMESTAMPS": "EVENT_ITEMS",
    "EVENT_SURFACES": "EVENT_ITEMS",
    "CANDIDATE_ORIGINS": "CANDIDATE_ITEMS",
}
"""Tensors between nodes that have a value for each item row of another one."""


def check_sizes(arrays: Arrays, model: UnifiedConfig) -> None:
    """Refuse tensors between nodes that no node of this graph makes.

    Raises:
        InvalidInputError: naming the tensor, its size or value and the allowed range.
    """
    for name, most in (("EVENT_ITEMS", model.max_history), ("CANDIDATE_ITEMS", model.max_candidates)):
        if name in arrays:
            _check_item_rows(name, arrays[name], most, model.num_items)
    for name, other in PARALLEL.items():
        if name in arrays and arrays[name].shape != arrays[other].shape:
            raise InvalidInputError(f"{name} has another shape than {other}; allowed: the same")
    for name, least, most in (
        ("EVENT_ACTIONS", 0, 2**model.num_actions - 1),
        ("EVENT_SURFACES", 0, model.num_surfaces - 1),
        ("SURFACE", 0, model.num_surfaces - 1),
        ("NUM_RESULTS", 1, model.max_candidates),
    ):
        if name in arrays:
            _check_values(name, arrays[name], least, most)
    if "CANDIDATE_PROBS" in arrays:
        _check_probabilities(arrays, model.num_actions)
    for name in ("OUTCOME_WEIGHTS", "UTILITY_WEIGHTS", "CHOSEN_UTILITY_WEIGHTS"):
        if name in arrays:
            _check_weights(name, arrays[name], model.num_actions)
    if "QUERY_EMBEDDINGS" in arrays and arrays["QUERY_EMBEDDINGS"].shape[2] != model.item_dim:
        width = arrays["QUERY_EMBEDDINGS"].shape[2]
        raise InvalidInputError(f"QUERY_EMBEDDINGS has width {width}; allowed: {model.item_dim}")
    if "QUERY_BUDGETS" in arrays:
        _check_budgets(arrays, model.max_candidates)


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


def _check_values(name: str, value_BX: NDArray[Any], least: int, most: int) -> None:
    wrong = value_BX[(value_BX < least) | (value_BX > most)]
    if len(wrong):
        raise InvalidInputError(f"{name} is {wrong[0]}; allowed: {least} to {most}")


def _check_weights(name: str, weight_BA: NDArray[Any], num_actions: int) -> None:
    if weight_BA.shape[1] != num_actions or not ((weight_BA >= 0) & (weight_BA <= LARGEST_WEIGHT)).all():
        raise InvalidInputError(f"{name} is wrong; allowed: {num_actions} of 0 to {LARGEST_WEIGHT:g}")


def _check_probabilities(arrays: Arrays, num_actions: int) -> None:
    expected = (*arrays["CANDIDATE_ITEMS"].shape, num_actions)
    probability_BKA = arrays["CANDIDATE_PROBS"]
    if probability_BKA.shape != expected:
        raise InvalidInputError(f"CANDIDATE_PROBS has shape {probability_BKA.shape}; allowed: {expected}")
    if not ((probability_BKA >= 0) & (probability_BKA <= 1)).all():
        raise InvalidInputError("CANDIDATE_PROBS is not a probability somewhere; allowed: 0 to 1")


def _check_budgets(arrays: Arrays, most: int) -> None:
    budget_BQ = arrays["QUERY_BUDGETS"]
    for name in ("QUERY_EMBEDDINGS", "QUERY_ORIGINS"):
        if arrays[name].shape[:2] != budget_BQ.shape:
            raise InvalidInputError(f"{name} has another shape than QUERY_BUDGETS; allowed: the same")
    for total in np.where(budget_BQ >= 0, budget_BQ, most + 1).sum(axis=1).tolist():
        if not 1 <= total <= most:
            raise InvalidInputError(f"QUERY_BUDGETS adds up to {total}; allowed: 1 to {most}, none negative")
