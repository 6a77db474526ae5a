"""A model is added as CONTRIBUTING.md says: its folder and a line of the registry."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ensemble.loaded_bundle import LoadedBundle
from export.bundle_writer import NotServedError, write_bundle
from tests.conftest import ITEMS, Exported
from tests.support.item_means.module import ItemMeans, ItemMeansConfig
from tests.support.item_means.spec import ItemMeansTraining
from unipinrec.bundle import BundleError, verify_bundle
from unipinrec.evaluation.leave_one_out import evaluate_leave_one_out
from unipinrec.graph import load_graph
from unipinrec.models.config import sized
from unipinrec.models.registry import MODELS, find_model
from unipinrec.training.checkpoint import latest_checkpoint, load_model, load_offline
from unipinrec.training.trainer import train

TRAINING = ItemMeansTraining(epochs=2, batch_size=64, checkpoint_every=1)


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS, "item_means", "tests.support.item_means.spec")


class PowerCutError(Exception):
    """Stops a run from outside."""


def trained(exported: Exported, folder: Path, cut_in_epoch: int | None = None) -> Path:
    spec = find_model("item_means")
    config = sized(spec.config, "tiny", exported.dataset.catalogue_fields)
    examples = spec.examples(exported.dataset, config, 0)
    set_epoch = examples.set_epoch

    def cut(epoch: int) -> None:
        if epoch == cut_in_epoch:
            raise PowerCutError
        set_epoch(epoch)

    examples.set_epoch = cut
    return train(spec, examples, config, TRAINING, folder)


def test_a_new_model_is_trained_resumed_exported_and_loaded(exported: Exported, tmp_path: Path) -> None:
    whole = trained(exported, tmp_path / "whole")
    with pytest.raises(PowerCutError):
        trained(exported, tmp_path / "cut", cut_in_epoch=1)
    left = latest_checkpoint(tmp_path / "cut")
    assert left is not None
    assert left.name == "epoch-0001"
    checkpoint = trained(exported, tmp_path / "cut")
    weights, others = (load_file(path / "model.safetensors") for path in (checkpoint, whole))
    assert weights.keys() == others.keys() == {"model.table.weight"}
    assert torch.equal(weights["model.table.weight"], others["model.table.weight"])

    model = load_model(checkpoint)
    assert isinstance(model, ItemMeans)
    quality = evaluate_leave_one_out(load_offline(checkpoint), exported.dataset, lambda _: None)
    assert quality["unipinrec_retrieval"]["recall@10"].mean > 10 / ITEMS

    bundle = write_bundle(checkpoint, exported.dataset, tmp_path / "bundles", report=lambda _: None)
    manifest = verify_bundle(bundle)
    assert manifest.models.keys() == {"item_means"}
    assert manifest.models["item_means"].files.keys() == {"query.pt", "weights.safetensors"}
    assert manifest.config_of("item_means", ItemMeansConfig) == model.config
    row_BN = torch.tensor([[3, 7, -1], [5, 5, 5]])
    graph = load_graph(bundle / "item_means" / "query.pt")
    assert torch.allclose(graph(row_BN), model(row_BN), atol=1e-6)
    with pytest.raises(BundleError, match=r"holds no model unified; it has item_means$"):
        _ = manifest.model


def test_a_bundle_holds_several_models(exported: Exported, tmp_path: Path) -> None:
    unified = latest_checkpoint(exported.bundle.parents[1] / "checkpoints")
    assert unified is not None
    beside = trained(exported, tmp_path / "training")
    bundle = write_bundle(
        unified, exported.dataset, tmp_path / "bundles", beside=[beside], report=lambda _: None
    )
    loaded = LoadedBundle.open(bundle)
    assert list(loaded.manifest.models) == ["unified", "item_means"]
    assert loaded.manifest.model == exported.model.config
    assert loaded.item_vectors().shape == (ITEMS, exported.model.config.item_dim)
    (bundle / "item_means" / "query.pt").write_bytes(b"")
    with pytest.raises(BundleError, match=r": item_means/query\.pt has 0 bytes; "):
        LoadedBundle.open(bundle)


def test_a_bundle_refuses_what_it_cannot_hold(exported: Exported, tmp_path: Path) -> None:
    checkpoint = trained(exported, tmp_path / "training")
    with pytest.raises(NotServedError, match=r"^models are item_means, item_means; allowed: one of each$"):
        write_bundle(checkpoint, exported.dataset, tmp_path, beside=[checkpoint], report=lambda _: None)
    spec = find_model("sasrec")
    config = sized(spec.config, "tiny", exported.dataset.catalogue_fields)
    examples = spec.examples(exported.dataset, config, 0)
    compared = train(spec, examples, config, spec.training(epochs=1, batch_size=320), tmp_path / "sasrec")
    with pytest.raises(NotServedError, match=r"holds the model sasrec, which is not served$"):
        write_bundle(compared, exported.dataset, tmp_path, report=lambda _: None)


def test_an_unknown_model_is_refused_with_the_known_ones() -> None:
    known = "unified, interleaved, sasrec, policy, transact, transact-v2, item_means"
    with pytest.raises(ValueError, match=rf"^model is 'magic'; allowed: {known}$"):
        find_model("magic")
