"""The `history` node beside a store that it does not have, or that holds more than its bundle knows."""

import logging
from pathlib import Path

import numpy as np
import pytest

from ensemble.loaded_bundle import LoadedBundle
from ensemble.nodes.history import HistoryNode
from ensemble.settings import ServingSettings
from ensemble.stores.history_store import EVENT
from ensemble.stores.lmdb_store import LmdbHistoryStore
from tests.conftest import ACTIONS, SURFACES
from tests.support.node_chain import Tensors, counted

REQUEST = {"USER_ID": np.array([[b"ann"]], np.object_)}
FIRST_ITEM = 1000
LAST_ACTIONS, LAST_SURFACE = 2 ** len(ACTIONS) - 1, len(SURFACES) - 1


def answer(node: HistoryNode) -> Tensors:
    return node.pack(node.run(node.parse(REQUEST)))


def test_without_a_store_everyone_is_new_and_one_line_warns(
    loaded: LoadedBundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        node = HistoryNode(loaded, ServingSettings(histories=tmp_path / "none"))
    assert caplog.messages == [
        f"no store of histories at {tmp_path / 'none'}: users who send none are new ones"
    ]
    assert answer(node)["EVENT_ITEMS"].tolist() == [[-1]]
    assert counted(node, "unipinrec_cold_starts_total") == 1
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
    assert answer(node)["EVENT_ITEMS"].tolist() == [[0, 3]]
    assert counted(node, "unipinrec_unknown_items_total") == 3
    node.close()
