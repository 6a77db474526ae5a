"""The second ranker reads items that are added while serving as it would read them from its catalogue."""

from pathlib import Path

import numpy as np
import pytest
import torch

from ensemble.arrays import Int64s
from ensemble.executors.item_embedder import BundleEmbedder
from ensemble.executors.second_ranker import CpuSecondRanker, second_ranker_files
from ensemble.loaded_bundle import LoadedBundle
from ensemble.stores.catalogue_store import CatalogueStore, Item
from ensemble.stores.catalogue_writer import CatalogueWriter
from ensemble.stores.served_items import ServedItems
from tests.conftest import ITEMS, NOW, Exported
from tests.support.second_rankers import CONFIGS, mixed, with_second_ranker
from unipinrec.data.history import History
from unipinrec.models.common.item_graph import ItemGraph
from unipinrec.models.common.offline import OfflineRequest
from unipinrec.models.registry import find_model
from unipinrec.models.transact.module import TransActV2
from unipinrec.models.transact.offline import OfflineSecondRanker
from unipinrec.models.transact.search import LARGEST, RANGE
from unipinrec.models.transact.served import AddedItems, load_second_ranker
from unipinrec.training.checkpoint import load_model, save_model

NAMES = pytest.mark.parametrize("name", sorted(CONFIGS))


@NAMES
def test_an_added_item_is_ranked_and_read_like_its_equal_of_the_catalogue(
    exported: Exported, tmp_path: Path, name: str
) -> None:
    loaded = LoadedBundle.open(with_second_ranker(exported, tmp_path, name).bundle)
    model = load_second_ranker(*second_ranker_files(loaded))
    ranker = OfflineSecondRanker(model)
    history, row_K = mixed(1, 300), np.arange(60)
    expected_KA = answers(ranker, history, row_K)
    given_VW = np.zeros((ITEMS, 1), np.float32)
    if isinstance(model, TransActV2):
        given_VW = model.search_VW.numpy() * np.float32(RANGE / LARGEST)
    vector_VE = model.embedder.get_buffer("vector_VE").numpy().copy()
    added = AddedItems(ranker)
    # More than there was room for at first.
    for rows in (np.arange(20), np.arange(20, 20), np.arange(20, 60), np.arange(60, 130)):
        added.extend(given_VW[rows], vector_VE[rows], rows)
    assert len(added) == 130
    moved = History(
        item_row_N=np.where(history.item_row_N < 130, history.item_row_N + ITEMS, history.item_row_N),
        actions_N=history.actions_N,
        timestamp_N=history.timestamp_N,
        surface_N=history.surface_N,
    )
    assert (moved.item_row_N != history.item_row_N).any()
    assert np.abs(answers(ranker, moved, row_K + ITEMS) - expected_KA).max() < 1e-6
    # One that the catalogue does not have has the prior's rates.
    added.extend(given_VW[:1], vector_VE[:1], np.array([-1]))
    for column in (ranker.rates.item_rate_VA, ranker.rates.attribute_rate_VA, ranker.rates.item_shown_V):
        assert not column[ITEMS + 130].any()
        column[0] = 0
    ranker.rates.attribute_shown_V[0] = 0
    found_KA = answers(ranker, history, np.array([0, ITEMS + 130]))
    assert np.abs(found_KA[0] - found_KA[1]).max() < 1e-6


@NAMES
def test_its_vectors_come_from_its_own_embedder_and_the_first_models_vectors(
    exported: Exported, tmp_path: Path, name: str
) -> None:
    spec, width = find_model(name), exported.model.config.item_dim
    config = CONFIGS[name].model_copy(update={"content_dim": width})
    torch.manual_seed(5)
    model = spec.make(config)
    with torch.no_grad():
        model.embedder.content_VF.copy_(exported.model.embedder.all_vectors() * width**0.5)
    checkpoint = save_model(tmp_path / "checkpoints", name, config, model, exported.dataset.info.sha256)
    loaded = LoadedBundle.open(exported.with_second(checkpoint, tmp_path / "bundles"))
    row_V = np.arange(ITEMS)
    nothing = Item((), (), "")
    vector_VE, second_VS = BundleEmbedder(loaded)([nothing] * ITEMS, row_V)
    assert np.abs(vector_VE - loaded.item_vectors()).max() < 1e-5
    with torch.inference_mode():
        right_VS = load_model(checkpoint).embedder.all_vectors().numpy()
    assert np.abs(second_VS - right_VS).max() < 1e-5
    # As the node of a server has them.
    store = CatalogueStore.open(tmp_path / "catalogue", writable=True)
    items = ServedItems(loaded, store)
    writer = CatalogueWriter(loaded, store, items, BundleEmbedder(loaded), most=10)
    ranker = CpuSecondRanker(*second_ranker_files(loaded), items)
    writer.update([(10**6, nothing), (int(exported.dataset.item_ids_V[3]), nothing)])
    items.refresh()
    request = OfflineRequest(history=mixed(1, 40), request_time=NOW, surface=0)
    (found_KA,) = ranker.action_probabilities([request], [np.array([3, ITEMS + 1, ITEMS])])
    assert np.abs(found_KA[0] - found_KA[1]).max() < 1e-5
    assert np.abs(found_KA[0] - found_KA[2]).max() > 1e-5
    writer.close()


def test_the_graph_of_an_embedder_is_the_embedder(exported: Exported) -> None:
    embedder = exported.model.embedder
    row_V = torch.arange(ITEMS)
    made_VE = ItemGraph(embedder)(row_V, embedder.attribute_VX, embedder.content_VF)
    assert torch.equal(made_VE, embedder.all_vectors())


def answers(ranker: OfflineSecondRanker, history: History, row_K: Int64s) -> np.ndarray:
    request = OfflineRequest(history=history, request_time=NOW, surface=1)
    (probability_KA,) = ranker.action_probabilities([request], [row_K])
    return probability_KA.numpy()
