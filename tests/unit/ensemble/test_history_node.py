"""The `history` node beside a store that it does not have, or that holds more than its bundle knows."""

import logging
from pathlib import Path

import numpy as np
import pytest

from ensemble.loaded_bundle import LoadedBundle
from ensemble.nodes.history import HistoryNode
from ensemble.nodes.sealed_history import SealedHistory, left_out_from_bytes
from ensemble.settings import ServingSettings
from ensemble.stores.history_store import EVENT
from ensemble.stores.lmdb_store import LmdbHistoryStore
from tests.conftest import ACTIONS, SURFACES
from tests.support.node_chain import counted
from tests.support.seals import contents_of

REQUEST = {"USER_ID": np.array([[b"ann"]], np.object_)}
FIRST_ITEM = 1000
LAST_ACTIONS, LAST_SURFACE = 2 ** len(ACTIONS) - 1, len(SURFACES) - 1


def window(node: HistoryNode, loaded: LoadedBundle) -> list[int]:
    made = node.pack(node.run(node.parse(REQUEST)))
    (content,) = contents_of(loaded.id, made, "SEALED_HISTORY")
    return SealedHistory.from_bytes(content).history.item_row_N.tolist()


def test_without_a_store_everyone_is_new_and_one_line_warns(
    loaded: LoadedBundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        node = HistoryNode(loaded, ServingSettings(histories=tmp_path / "none"))
    assert caplog.messages == [
        f"no store of histories at {tmp_path / 'none'}: users who send none are new ones"
    ]
    assert window(node, loaded) == []
    assert counted(node, "unipinrec_cold_starts_total") == 1
    node.close()


@pytest.mark.parametrize("exclude_seen", [True, False])
def test_seen_items_are_left_out_unless_repeats_are_welcome(
    loaded: LoadedBundle, tmp_path: Path, exclude_seen: bool
) -> None:
    with LmdbHistoryStore(tmp_path / "store", writable=True) as store:
        store.append(b"ann", np.array([(FIRST_ITEM + 3 * row, 1, 10, 0) for row in (4, 9, 4)], EVENT))
    node = HistoryNode(loaded, ServingSettings(histories=tmp_path / "store", exclude_seen=exclude_seen))
    excluded = {"EXCLUDE_ITEM_IDS": np.array([[FIRST_ITEM + 6, 5, FIRST_ITEM + 12]])}
    made = node.pack(node.run(node.parse(REQUEST | excluded)))
    (content,) = contents_of(loaded.id, made, "SEALED_LEFT_OUT")
    version, left_out_X = left_out_from_bytes(content)
    assert (version, left_out_X.tolist()) == (0, [2, 4, 9] if exclude_seen else [2, 4])
    node.close()


def test_events_that_the_bundle_has_no_rows_for_are_ignored_and_counted(
    loaded: LoadedBundle, tmp_path: Path
) -> None:
    """Such as those of a later bundle: an index beyond a table would fail the request, or a GPU's process."""
    stored = [
        (FIRST_ITEM, LAST_ACTIONS, 10, LAST_SURFACE),
        (FIRST_ITEM + 3, LAST_ACTIONS + 1, 11, 0),
        (FIRST_ITEM + 6, 1, 12, LAST_SURFACE + 1),
        (FIRST_ITEM + 1, 1, 13, 0),
        (FIRST_ITEM + 9, 1, 14, 0),
    ]
    with LmdbHistoryStore(tmp_path / "store", writable=True) as store:
        store.append(b"ann", np.array(stored, EVENT))
    node = HistoryNode(loaded, ServingSettings(histories=tmp_path / "store"))
    assert window(node, loaded) == [0, 3]
    assert counted(node, "unipinrec_unknown_items_total") == 3
    node.close()
