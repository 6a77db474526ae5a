"""What the edge of the graph refuses, word for word, and the boundary values that it accepts."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ensemble.nodes.checks import check_request
from ensemble.nodes.contract import InvalidInputError
from unipinrec.models.unified.config import UnifiedConfig, preset

MODEL = preset("tiny", num_items=10, num_actions=3, num_surfaces=2, max_candidates=16)
END_OF_9999 = 253_402_300_799
"""9999-12-31T23:59:59Z."""

Tensors = dict[str, NDArray[Any]]


def check(arrays: Tensors, model: UnifiedConfig = MODEL) -> None:
    check_request(arrays, model, max_events=5, max_exclude=4)


def users(*ids: bytes) -> NDArray[np.object_]:
    return np.array([[user_id] for user_id in ids], np.object_)


def int64(*rows: list[int]) -> NDArray[np.int64]:
    return np.array(rows, np.int64)


def float32(*rows: list[float]) -> NDArray[np.float32]:
    return np.array(rows, np.float32)


def request(**changed: NDArray[Any] | None) -> Tensors:
    """Two users, the second with a shorter history, every tensor given; None takes a tensor away."""
    arrays: dict[str, NDArray[Any] | None] = {
        "USER_ID": users(b"a", b"b"),
        "HISTORY_ITEM_IDS": int64([11, 12, 13], [14, -1, -1]),
        "HISTORY_ACTIONS": int64([1, 2, 4], [7, 0, 0]),
        "HISTORY_TIMESTAMPS": int64([100, 100, 300], [50, 0, 0]),
        "HISTORY_SURFACES": int64([0, 1, 0], [1, 0, 0]),
        "REQUEST_TIME": int64([400], [500]),
        "SURFACE": int64([0], [1]),
        "NUM_RESULTS": int64([1], [16]),
        "OUTCOME_WEIGHTS": float32([1, 0, 0], [0.5, 0.5, 0]),
        "UTILITY_WEIGHTS": float32([0, 0, 0], [1, 2, 3]),
        "EXCLUDE_ITEM_IDS": int64([11, -1], [12, 13]),
        **changed,
    }
    return {name: array for name, array in arrays.items() if array is not None}


WITHOUT_HISTORY: dict[str, None] = {
    "HISTORY_ITEM_IDS": None,
    "HISTORY_ACTIONS": None,
    "HISTORY_TIMESTAMPS": None,
    "HISTORY_SURFACES": None,
}

WITHOUT_CONTEXT: dict[str, None] = {
    "REQUEST_TIME": None,
    "SURFACE": None,
    "NUM_RESULTS": None,
    "OUTCOME_WEIGHTS": None,
    "UTILITY_WEIGHTS": None,
    "EXCLUDE_ITEM_IDS": None,
}

REFUSED: list[tuple[dict[str, NDArray[Any] | None], str]] = [
    ({"USER_ID": users(b"a", b"x" * 257)}, "USER_ID has 257 bytes; allowed: 0 to 256"),
    (
        {**WITHOUT_HISTORY, "HISTORY_SURFACES": int64([0], [0])},
        "HISTORY_SURFACES is given without HISTORY_ITEM_IDS; allowed: beside a history only",
    ),
    (
        {"HISTORY_ITEM_IDS": None},
        "HISTORY_ITEM_IDS is missing; "
        "allowed: HISTORY_ITEM_IDS, HISTORY_ACTIONS, HISTORY_TIMESTAMPS all three or none",
    ),
    (
        {"HISTORY_ACTIONS": None},
        "HISTORY_ACTIONS is missing; "
        "allowed: HISTORY_ITEM_IDS, HISTORY_ACTIONS, HISTORY_TIMESTAMPS all three or none",
    ),
    (
        {"HISTORY_TIMESTAMPS": None, "HISTORY_SURFACES": None},
        "HISTORY_TIMESTAMPS is missing; "
        "allowed: HISTORY_ITEM_IDS, HISTORY_ACTIONS, HISTORY_TIMESTAMPS all three or none",
    ),
    ({"HISTORY_ITEM_IDS": int64([1] * 6, [1] * 6)}, "HISTORY_ITEM_IDS has 6 values; allowed: 0 to 5"),
    (
        {"HISTORY_ACTIONS": int64([1, 2], [0, 0])},
        "HISTORY_ACTIONS has 2 values; allowed: 3, as many as HISTORY_ITEM_IDS",
    ),
    (
        {"HISTORY_TIMESTAMPS": int64([1, 2, 3, 4], [0, 0, 0, 0])},
        "HISTORY_TIMESTAMPS has 4 values; allowed: 3, as many as HISTORY_ITEM_IDS",
    ),
    (
        {"HISTORY_SURFACES": int64([0], [0])},
        "HISTORY_SURFACES has 1 values; allowed: 3, as many as HISTORY_ITEM_IDS",
    ),
    (
        {"HISTORY_ITEM_IDS": int64([11, 12, 13], [-1, 14, -1])},
        "HISTORY_ITEM_IDS is -1 before another item; allowed: padding at the end only",
    ),
    (
        {"HISTORY_ACTIONS": int64([1, 2, 8], [7, 0, 0])},
        "HISTORY_ACTIONS is 8 at user 0, event 2; allowed: 0 to 7",
    ),
    (
        {"HISTORY_ACTIONS": int64([1, 2, 4], [-1, 0, 0])},
        "HISTORY_ACTIONS is -1 at user 1, event 0; allowed: 0 to 7",
    ),
    (
        {"HISTORY_TIMESTAMPS": int64([-1, 100, 300], [50, 0, 0])},
        "HISTORY_TIMESTAMPS is -1 at user 0, event 0; allowed: 0 to 253402300799",
    ),
    (
        {"HISTORY_TIMESTAMPS": int64([1, 2, END_OF_9999 + 1], [50, 0, 0])},
        "HISTORY_TIMESTAMPS is 253402300800 at user 0, event 2; allowed: 0 to 253402300799",
    ),
    (
        {"HISTORY_SURFACES": int64([0, 1, 0], [2, 0, 0])},
        "HISTORY_SURFACES is 2 at user 1, event 0; allowed: 0 to 1",
    ),
    (
        {"HISTORY_SURFACES": int64([0, -1, 0], [1, 0, 0])},
        "HISTORY_SURFACES is -1 at user 0, event 1; allowed: 0 to 1",
    ),
    (
        {"HISTORY_TIMESTAMPS": int64([100, 300, 299], [50, 0, 0])},
        "HISTORY_TIMESTAMPS is 299 at user 0, event 2; allowed: ascending, at least 300",
    ),
    ({"REQUEST_TIME": int64([400], [-1])}, "REQUEST_TIME is -1 at user 1; allowed: 0 to 253402300799"),
    (
        {"REQUEST_TIME": int64([END_OF_9999 + 1], [5])},
        "REQUEST_TIME is 253402300800 at user 0; allowed: 0 to 253402300799",
    ),
    ({"SURFACE": int64([0], [2])}, "SURFACE is 2 at user 1; allowed: 0 to 1"),
    ({"SURFACE": int64([-1], [0])}, "SURFACE is -1 at user 0; allowed: 0 to 1"),
    ({"NUM_RESULTS": int64([0], [1])}, "NUM_RESULTS is 0 at user 0; allowed: 1 to 16"),
    ({"NUM_RESULTS": int64([1], [17])}, "NUM_RESULTS is 17 at user 1; allowed: 1 to 16"),
    (
        {"OUTCOME_WEIGHTS": float32([1, 0], [1, 0])},
        "OUTCOME_WEIGHTS has 2 values; allowed: 3, one for each action",
    ),
    (
        {"UTILITY_WEIGHTS": float32([1, 0, 0, 0], [1, 0, 0, 0])},
        "UTILITY_WEIGHTS has 4 values; allowed: 3, one for each action",
    ),
    (
        {"UTILITY_WEIGHTS": float32([1, 0, 0], [1, -0.5, 0])},
        "UTILITY_WEIGHTS is -0.5 at user 1, action 1; allowed: 0 to 1e+30",
    ),
    (
        {"UTILITY_WEIGHTS": float32([1, 1.1e30, 0], [1, 0, 0])},
        "UTILITY_WEIGHTS is 1.1e+30 at user 0, action 1; allowed: 0 to 1e+30",
    ),
    (
        {"UTILITY_WEIGHTS": float32([1, 0, float("inf")], [1, 0, 0])},
        "UTILITY_WEIGHTS is inf at user 0, action 2; allowed: 0 to 1e+30",
    ),
    (
        {"OUTCOME_WEIGHTS": float32([1, 0, 0], [float("nan"), 0, 0])},
        "OUTCOME_WEIGHTS is nan at user 1, action 0; allowed: 0 to 1e+30",
    ),
    (
        {"OUTCOME_WEIGHTS": float32([1, 0, 0], [0, 0, 0])},
        "OUTCOME_WEIGHTS is all 0 at user 1; allowed: at least one above 0",
    ),
    (
        {"EXCLUDE_ITEM_IDS": int64([1, 2, 3, 4, 5], [1, 2, 3, 4, -1])},
        "EXCLUDE_ITEM_IDS has 5 values; allowed: 0 to 4",
    ),
]


@pytest.mark.parametrize(("changed", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_a_request_outside_the_contract_is_refused_with_tensor_value_and_range(
    changed: dict[str, NDArray[Any] | None], message: str
) -> None:
    with pytest.raises(InvalidInputError) as refused:
        check(request(**changed))
    assert str(refused.value) == message


@pytest.mark.parametrize(
    "changed",
    [
        {},
        WITHOUT_HISTORY,
        {"HISTORY_SURFACES": None},
        {"USER_ID": users(b"", b"x" * 256)},
        {
            "HISTORY_ITEM_IDS": int64([1] * 5, [-1] * 5),
            "HISTORY_ACTIONS": int64([0, 7, 0, 7, 0], [0] * 5),
            "HISTORY_TIMESTAMPS": int64([0, 0, 1, END_OF_9999, END_OF_9999], [0] * 5),
            "HISTORY_SURFACES": int64([0, 1, 0, 1, 0], [0] * 5),
        },
        {
            "HISTORY_ITEM_IDS": np.empty((2, 0), np.int64),
            "HISTORY_ACTIONS": np.empty((2, 0), np.int64),
            "HISTORY_TIMESTAMPS": np.empty((2, 0), np.int64),
            "HISTORY_SURFACES": np.empty((2, 0), np.int64),
        },
        {"HISTORY_ITEM_IDS": int64([0, -2, 2**62], [14, -1, -1])},
        {"REQUEST_TIME": int64([0], [END_OF_9999])},
        {"UTILITY_WEIGHTS": float32([0, 0, 0], [1e30, 0, 0])},
        {"OUTCOME_WEIGHTS": float32([0, 0, 1e-30], [1, 1, 1])},
        {"EXCLUDE_ITEM_IDS": int64([1, 2, 3, 4], [-1, -1, -1, -1])},
        {"EXCLUDE_ITEM_IDS": np.empty((2, 0), np.int64)},
        {**WITHOUT_HISTORY, **WITHOUT_CONTEXT},
    ],
    ids=[
        "every tensor",
        "no history",
        "no surfaces of a history",
        "user ids of 0 and 256 bytes",
        "the longest history beside one of padding alone, at the ends of every range",
        "histories without a column",
        "item ids that no catalogue has",
        "the first and the last request time",
        "utility weights of 0, and the largest",
        "outcome weights barely above 0",
        "the most exclusions, all padding among them",
        "no exclusion",
        "a user id alone",
    ],
)
def test_a_request_at_the_ends_of_the_contract_is_accepted(changed: dict[str, NDArray[Any] | None]) -> None:
    assert check(request(**changed)) is None


@pytest.mark.parametrize(
    ("name", "padding"),
    [
        ("HISTORY_ACTIONS", 99),
        ("HISTORY_TIMESTAMPS", -5),
        ("HISTORY_TIMESTAMPS", 1),
        ("HISTORY_SURFACES", -1),
    ],
)
def test_values_beside_padding_are_not_looked_at(name: str, padding: int) -> None:
    arrays = request()
    padded = arrays[name].copy()
    padded[1, 1:] = padding
    assert check({**arrays, name: padded}) is None
    real = arrays[name].copy()
    real[0, 2] = padding
    with pytest.raises(InvalidInputError, match=f"^{name} is {padding} at user 0, event 2; allowed: "):
        check({**arrays, name: real})


def test_all_action_bits_of_the_widest_catalogue_are_accepted() -> None:
    widest = MODEL.model_copy(update={"num_actions": 32})
    weights = np.ones((2, 32), np.float32)

    def with_actions(mask: int) -> Tensors:
        actions = int64([mask, 0, 0], [0, 0, 0])
        return request(HISTORY_ACTIONS=actions, OUTCOME_WEIGHTS=weights, UTILITY_WEIGHTS=weights)

    assert check(with_actions(2**32 - 1), widest) is None
    with pytest.raises(
        InvalidInputError,
        match=r"^HISTORY_ACTIONS is 4294967296 at user 0, event 0; allowed: 0 to 4294967295$",
    ):
        check(with_actions(2**32), widest)
