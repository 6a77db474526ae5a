"""A bundle holds a second ranker that answers as eager PyTorch does, or none."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ensemble.executors.second_ranker import CpuSecondRanker, second_ranker_files
from ensemble.loaded_bundle import LoadedBundle
from ensemble.nodes.l2 import L2Node, L2Row
from ensemble.settings import ServingSettings
from export.bundle_writer import NotServedError, write_bundle
from export.check import ExportMismatchError, refuse_if_different
from tests.conftest import ITEMS, NOW, Exported
from tests.support.second_rankers import CONFIGS, RankerExported, mixed, random_ranker, with_second_ranker
from unipinrec.bundle import SECOND_RANKERS, WEIGHTS, read_manifest
from unipinrec.models.common.offline import OfflineRequest
from unipinrec.models.transact.offline import OfflineSecondRanker
from unipinrec.models.transact.served import Probabilities, load_second_ranker, probe
from unipinrec.training.checkpoint import latest_checkpoint


@pytest.fixture(scope="module", params=sorted(CONFIGS))
def name(request: pytest.FixtureRequest) -> str:
    made: str = request.param
    return made


@pytest.fixture(scope="module")
def ranker(exported: Exported, name: str, tmp_path_factory: pytest.TempPathFactory) -> RankerExported:
    return with_second_ranker(exported, tmp_path_factory.mktemp("ranker"), name)


def test_the_manifest_describes_it_beside_the_unified_model(
    ranker: RankerExported, exported: Exported, name: str
) -> None:
    manifest = read_manifest(ranker.bundle)
    assert manifest.second_ranker == name
    assert manifest.model == exported.model.config
    assert manifest.config_of(name, type(ranker.model.config)) == ranker.model.config
    assert list(manifest.models[name].files) == ["embedder.pt", WEIGHTS]
    assert set(CONFIGS) == set(SECOND_RANKERS)


def test_its_weights_hold_the_vectors_of_all_items_in_place_of_the_embedder(
    ranker: RankerExported, name: str
) -> None:
    weights = load_file(ranker.bundle / name / WEIGHTS)
    of_embedder = {found for found in weights if found.startswith("embedder.")}
    assert of_embedder == {"embedder.vector_VE"}
    vector_VE = ranker.model.embedder(torch.arange(ITEMS)).detach()
    assert torch.allclose(weights["embedder.vector_VE"], vector_VE, atol=1e-6)


@pytest.mark.parametrize("lengths", [(0,), (1,), (0, 0), (99, 100, 101), (1, 700, 0, 20), (18_000,)])
def test_what_is_served_answers_as_eager_does(
    ranker: RankerExported, name: str, lengths: tuple[int, ...]
) -> None:
    assert_answers_as_eager(ranker, name, lengths)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("transact-v2", {"nearest_counts": False}),
        ("transact", {"fusion": "append", "outputs": "max"}),
        ("transact", {"base_rates": False}),
    ],
)
def test_so_does_one_of_another_configuration(
    exported: Exported, tmp_path: Path, name: str, changes: dict[str, object]
) -> None:
    ranker = with_second_ranker(exported, tmp_path, name, **changes)
    config = read_manifest(ranker.bundle).config_of(name, type(ranker.model.config))
    assert {field: getattr(config, field) for field in changes} == changes
    assert_answers_as_eager(ranker, name, (1, 700, 0, 20))
    loaded = LoadedBundle.open(ranker.bundle)
    node = L2Node(loaded, CpuSecondRanker(*second_ranker_files(loaded)), ServingSettings())
    request = OfflineRequest(history=mixed(1, 300), request_time=NOW, surface=1)
    row_K = np.arange(ITEMS)
    (found,) = node.run([L2Row(b"", row_K, request)])
    (expected_KA,) = OfflineSecondRanker(ranker.model).action_probabilities([request], [row_K])
    np.testing.assert_allclose(found.probability_KA, expected_KA, atol=1e-6, rtol=0)


def assert_answers_as_eager(ranker: RankerExported, name: str, lengths: tuple[int, ...]) -> None:
    served = load_second_ranker(ranker.bundle / name / WEIGHTS, ranker.model.config)
    requests = probe(ranker.model, lengths, seed=70)
    with torch.inference_mode():
        found_CA, expected_CA = Probabilities(served)(requests), torch.sigmoid(ranker.model(requests))
    np.testing.assert_allclose(found_CA, expected_CA, atol=1e-6, rtol=0)


def test_weights_that_answer_otherwise_are_refused(ranker: RankerExported, name: str, tmp_path: Path) -> None:
    weights = load_file(ranker.bundle / name / WEIGHTS)
    weights["heads.logit.weight"][0, 0] += 0.01
    save_file(weights, tmp_path / WEIGHTS)
    altered = Probabilities(load_second_ranker(tmp_path / WEIGHTS, ranker.model.config))
    call = (probe(ranker.model, (30, 3), seed=71),)
    with pytest.raises(ExportMismatchError, match=f"^{name} differs from eager by"):
        refuse_if_different(name, altered, Probabilities(ranker.model), call)


def test_two_second_rankers_are_refused(exported: Exported, tmp_path: Path) -> None:
    unified = latest_checkpoint(exported.bundle.parents[1] / "checkpoints")
    assert unified is not None
    both = [random_ranker(name, tmp_path / name, exported.dataset.info.sha256) for name in sorted(CONFIGS)]
    message = "^second rankers are transact, transact-v2; allowed: one of them$"
    with pytest.raises(NotServedError, match=message):
        write_bundle(unified, exported.dataset, tmp_path / "bundles", beside=both, report=lambda _: None)
    assert not (tmp_path / "bundles").exists()
