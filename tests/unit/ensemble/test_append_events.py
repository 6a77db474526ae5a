"""What the `append_events` node stores, refuses and counts."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ensemble.loaded_bundle import LoadedBundle
from ensemble.nodes.append_events import AppendEventsNode
from ensemble.nodes.contract import InvalidInputError
from ensemble.settings import ServingSettings
from ensemble.stores.history_store import StoreError
from tests.support.node_chain import Tensors, counted


def request(**changed: NDArray[Any] | None) -> Tensors:
    """Two users, the second with fewer events, every tensor given; None takes a tensor away."""
    arrays: dict[str, NDArray[Any] | None] = {
        "USER_ID": np.array([[b"ann"], [b"bob"]], np.object_),
        "ITEM_IDS": np.array([[11, 2**63 - 1, 13], [0, -1, -1]]),
        "ACTIONS": np.array([[1, 2, 7], [0, 0, 0]]),
        "TIMESTAMPS": np.array([[100, 100, 300], [99_999_999_999, 0, 0]]),
        "SURFACES": np.array([[0, 1, 0], [1, 0, 0]]),
        "EVENT_IDS": np.array([[b"a", b"", b"x" * 256], [b"a", b"", b""]], np.object_),
        **changed,
    }
    return {name: array for name, array in arrays.items() if array is not None}


@pytest.fixture
def settings(tmp_path: Path) -> ServingSettings:
    return ServingSettings(
        histories=tmp_path / "store", append_events=True, max_events=5, max_stored_events=4
    )


@pytest.fixture
def node(loaded: LoadedBundle, settings: ServingSettings) -> Iterator[AppendEventsNode]:
    made = AppendEventsNode(loaded, settings)
    yield made
    made.close()


def appended(node: AppendEventsNode, *requests: Tensors) -> list[tuple[int, int]]:
    """Stored events and duplicates of each user of several requests that are run together."""
    packed = node.pack(node.run([row for arrays in requests for row in node.parse(arrays)]))
    assert {array.shape[1] for array in packed.values()} == {1}
    return list(zip(packed["STORED"][:, 0].tolist(), packed["DUPLICATES"][:, 0].tolist(), strict=True))


def stored(node: AppendEventsNode, user_id: bytes) -> list[tuple[int, ...]]:
    assert node._store is not None
    return [tuple(event) for event in node._store.read(user_id).tolist()]


def outcomes(node: AppendEventsNode) -> list[float]:
    return [
        counted(node, "unipinrec_appended_events_total", outcome=outcome)
        for outcome in ("stored", "duplicate", "too old")
    ]


def test_events_are_stored_once_and_counted(node: AppendEventsNode) -> None:
    assert appended(node, request()) == [(3, 0), (1, 0)]
    assert appended(node, request()) == [(0, 3), (0, 1)]
    assert stored(node, b"ann") == [(11, 1, 100, 0), (2**63 - 1, 2, 100, 1), (13, 7, 300, 0)]
    assert stored(node, b"bob") == [(0, 0, 99_999_999_999, 1)]
    assert outcomes(node) == [4, 4, 0]


def test_ids_and_surfaces_may_be_left_out(node: AppendEventsNode) -> None:
    without = request(EVENT_IDS=None, SURFACES=None)
    assert appended(node, without, without) == [(3, 0), (1, 0), (0, 3), (0, 1)]
    assert stored(node, b"bob") == [(0, 0, 99_999_999_999, 0)]


def test_what_is_older_than_all_that_is_kept_is_counted_as_such(node: AppendEventsNode) -> None:
    later = {"TIMESTAMPS": np.array([[400, 500, 600], [0, 0, 0]]), "EVENT_IDS": None}
    appended(node, request(**later))
    assert appended(node, request()) == [(1, 0), (1, 0)]
    assert outcomes(node) == [6, 0, 2]


def test_requests_of_a_batch_are_one_transaction(node: AppendEventsNode) -> None:
    assert node._store is not None

    def transactions() -> int:
        assert node._store is not None
        return int(node._store._environment.info()["last_txnid"])

    before = transactions()
    appended(node, *(request(TIMESTAMPS=np.full((2, 3), time)) for time in range(20)))
    assert transactions() == before + 1


def test_a_request_without_events_changes_nothing(node: AppendEventsNode) -> None:
    nothing = {
        "USER_ID": np.array([[b"canary"]], np.object_),
        "ITEM_IDS": np.array([[-1]]),
        "ACTIONS": np.array([[0]]),
        "TIMESTAMPS": np.array([[0]]),
    }
    assert appended(node, nothing) == [(0, 0)]
    assert node._store is not None
    assert node._store.first_users(1) == []


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"USER_ID": np.array([[b"ann"], [b""]], np.object_)}, "USER_ID has 0 bytes; allowed: 1 to 256"),
        (
            {"USER_ID": np.array([[b"x" * 257], [b""]], np.object_)},
            "USER_ID has 257 bytes; allowed: 1 to 256",
        ),
        (
            {"ITEM_IDS": np.array([[11, -2, 13], [0, -1, -1]])},
            "ITEM_IDS is -2 at user 0, event 1; allowed: -1 to 9223372036854775807",
        ),
        (
            {"ITEM_IDS": np.array([[11, -1, 13], [0, -1, -1]])},
            "ITEM_IDS is -1 before another item; allowed: padding at the end only",
        ),
        ({"ITEM_IDS": np.zeros((2, 6), np.int64)}, "ITEM_IDS has 6 values; allowed: 0 to 5"),
        (
            {"ITEM_IDS": np.zeros((2, 3), np.int64), "TIMESTAMPS": np.zeros((2, 3), np.int64)},
            "ITEM_IDS has 6 events of all users; allowed: 0 to 5",
        ),
        (
            {"ACTIONS": np.array([[1, 8, 7], [0, 0, 0]])},
            "ACTIONS is 8 at user 0, event 1; allowed: 0 to 7",
        ),
        (
            {"ACTIONS": np.zeros((2, 2), np.int64)},
            "ACTIONS has 2 values; allowed: 3, as many as ITEM_IDS",
        ),
        (
            {"TIMESTAMPS": np.array([[100, 99, 300], [0, 0, 0]])},
            "TIMESTAMPS is 99 at user 0, event 1; allowed: ascending, at least 100",
        ),
        (
            {"TIMESTAMPS": np.array([[1, 2, 1_700_000_000_000], [0, 0, 0]])},
            "TIMESTAMPS is 1700000000000 at user 0, event 2; allowed: 0 to 99999999999",
        ),
        (
            {"SURFACES": np.array([[0, 2, 0], [0, 0, 0]])},
            "SURFACES is 2 at user 0, event 1; allowed: 0 to 1",
        ),
        (
            {"EVENT_IDS": np.array([[b"", b"", b""], [b"x" * 257, b"", b""]], np.object_)},
            "EVENT_IDS has 257 bytes at user 1, event 0; allowed: 0 to 256",
        ),
        (
            {"EVENT_IDS": np.array([[b"a"], [b"b"]], np.object_)},
            "EVENT_IDS has 1 values; allowed: 3, as many as ITEM_IDS",
        ),
    ],
)
def test_what_the_bundle_would_not_read_is_refused_by_name_value_and_range(
    node: AppendEventsNode, changed: dict[str, NDArray[Any]], message: str
) -> None:
    with pytest.raises(InvalidInputError) as refused:
        node.parse(request(**changed))
    assert str(refused.value) == message


def test_without_the_setting_nothing_is_stored_and_no_store_made(
    loaded: LoadedBundle, settings: ServingSettings
) -> None:
    node = AppendEventsNode(loaded, settings.model_copy(update={"append_events": False}))
    with pytest.raises(InvalidInputError, match=r"^append_events is off; allowed: with UNIPINREC_APPEND"):
        node.parse(request())
    node.close()
    assert not settings.histories.exists()
    assert not ServingSettings().append_events


def test_what_is_no_store_is_refused(loaded: LoadedBundle, settings: ServingSettings) -> None:
    settings.histories.write_text("text")
    with pytest.raises(StoreError, match="is no history store"):
        AppendEventsNode(loaded, settings)
