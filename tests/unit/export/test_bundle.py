"""A bundle is served whole and unaltered, or refused with what is wrong with it."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import polars as pl
import pytest
import torch
from safetensors.numpy import load_file

from ensemble.loaded_bundle import LoadedBundle
from export.bundle_writer import DatasetMismatchError, write_bundle
from export.check import ExportMismatchError
from export.item_index import UnknownIndexError
from tests.conftest import ITEMS, Exported, random_checkpoint
from unipinrec.bundle import BundleError, read_manifest, verify_bundle
from unipinrec.data.events import DatasetInfo
from unipinrec.data.interactions import InteractionDataset
from unipinrec.data.prepared import write_prepared
from unipinrec.models.unified.config import preset

FILES = ("catalogue.json", "items.faiss", "items.safetensors")
MODEL_FILES = ("embedder.pt", "encoder.pt", "ranking_head.pt", "retrieval_head.pt", "weights.safetensors")
ALL_FILES = (*FILES, *(f"unified/{name}" for name in MODEL_FILES))


@pytest.fixture
def copy(exported: Exported, tmp_path: Path) -> Path:
    return shutil.copytree(exported.bundle, tmp_path / exported.bundle.name)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> InteractionDataset:
    """Two users, four items."""
    folder = tmp_path_factory.mktemp("shop") / "data"
    info = DatasetInfo(
        name="shop", actions=("click", "save"), sampled_impressions=True, utility_weights=(1.0, 2.0)
    )
    rows = [("a", 30, 1, 5), ("a", 10, 3, 6), ("a", 20, 2, 9), ("b", 40, 1, 7)]
    columns = ["user_id", "item_id", "actions", "timestamp"]
    items = pl.DataFrame({"item_id": [10, 20, 30, 40], "title": ["ten", "zwänzig", "thirty", None]})
    write_prepared(folder, pl.DataFrame(rows, columns, orient="row"), items, info)
    return InteractionDataset.load(folder)


@pytest.fixture(scope="module")
def checkpoints(shop: InteractionDataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two models of different sizes for the shop."""
    folder = tmp_path_factory.mktemp("checkpoints")
    config = preset("tiny", num_items=4, num_actions=2)
    wider = config.model_copy(update={"head_hidden": 12})
    return random_checkpoint(config, folder / "one", shop), random_checkpoint(wider, folder / "other", shop)


@pytest.fixture(scope="module")
def shop_bundles(
    shop: InteractionDataset, checkpoints: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder with one bundle, to be read or copied."""
    folder = tmp_path_factory.mktemp("shop-bundles")
    write_bundle(checkpoints[0], shop, folder, report=silent)
    return folder


@pytest.fixture
def bundles(shop_bundles: Path, tmp_path: Path) -> Path:
    return shutil.copytree(shop_bundles, tmp_path / "bundles", symlinks=True)


def silent(_: str) -> None:
    pass


def edit_manifest(bundle: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    path = bundle / "manifest.json"
    fields = json.loads(path.read_text())
    edit(fields)
    path.write_text(json.dumps(fields))


def test_a_bundle_holds_exactly_the_files_that_its_manifest_describes(exported: Exported) -> None:
    manifest = json.loads((exported.bundle / "manifest.json").read_text())
    found = [path for path in exported.bundle.rglob("*") if path.is_file()]
    names = sorted(path.relative_to(exported.bundle).as_posix() for path in found)
    assert names == sorted([*ALL_FILES, "manifest.json"])
    assert sorted(manifest["files"]) == list(FILES)
    assert list(manifest["models"]) == ["unified"]
    of_model = manifest["models"]["unified"]["files"]
    assert sorted(of_model) == list(MODEL_FILES)
    for name, described in (
        manifest["files"] | {f"unified/{name}": of_model[name] for name in of_model}
    ).items():
        content = (exported.bundle / name).read_bytes()
        assert described == {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}


def test_the_manifest_says_what_was_exported(exported: Exported) -> None:
    manifest = verify_bundle(exported.bundle)
    assert manifest.format_version == 8
    assert manifest.bundle_id == exported.bundle.name
    assert manifest.bundle_id.startswith("synthetic-")
    assert (manifest.dataset, manifest.actions) == ("synthetic", ("click", "save", "hide"))
    assert manifest.surfaces == ("home", "search")
    assert not manifest.history_impressions
    assert manifest.second_ranker is None
    assert manifest.model == exported.model.config
    assert manifest.index == "flat"
    assert manifest.torch_version == torch.__version__
    defaults = manifest.defaults
    assert (defaults.num_results, defaults.over_fetch) == (50, 2)
    assert defaults.utility_weights == (1.0, 0.5, 0.0)
    assert defaults.outcome_weights == (0.0, 0.0, 0.0)


def test_index_and_vocabulary_hold_the_same_unit_vectors_as_the_embedder(exported: Exported) -> None:
    items = load_file(exported.bundle / "items.safetensors")
    assert items["item_id_V"].tolist() == [1000 + 3 * row for row in range(ITEMS)]
    index = faiss.read_index(str(exported.bundle / "items.faiss"))
    assert index.metric_type == faiss.METRIC_INNER_PRODUCT
    assert np.array_equal(index.reconstruct_n(0, index.ntotal), items["vector_VE"])
    with torch.no_grad():
        backwards = exported.model.embedder(torch.arange(ITEMS - 1, -1, -1)).numpy()
    assert np.abs(items["vector_VE"] - backwards[::-1]).max() < 1e-6
    assert np.abs(np.linalg.norm(items["vector_VE"], axis=1) - 1).max() < 1e-6


def test_external_ids_and_rows_are_translated_both_ways(exported: Exported) -> None:
    vocabulary = LoadedBundle.open(exported.bundle).vocabulary()
    ids = np.array([1000, 1003, 1000 + 3 * 399, 999, 1001, 1201, 5000, -1, 1003])
    assert vocabulary.rows_of(ids).tolist() == [0, 1, 399, -1, -1, 67, -1, -1, 1]
    assert vocabulary.ids_of(np.array([399, 0, 67])).tolist() == [2197, 1000, 1201]
    assert vocabulary.rows_of(np.empty(0, np.int64)).tolist() == []


@pytest.mark.parametrize("name", ALL_FILES)
def test_a_file_with_one_bit_changed_is_refused(copy: Path, name: str) -> None:
    content = bytearray((copy / name).read_bytes())
    old = hashlib.sha256(content).hexdigest()[:12]
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    new = hashlib.sha256(content).hexdigest()[:12]
    with pytest.raises(BundleError) as refused:
        LoadedBundle.open(copy)
    assert str(refused.value) == (f"bundle {copy}: {name} has sha256 {new}; the manifest says {old}")


@pytest.mark.parametrize("name", ALL_FILES)
def test_a_truncated_file_is_refused(copy: Path, name: str) -> None:
    content = (copy / name).read_bytes()
    (copy / name).write_bytes(content[:-1])
    with pytest.raises(BundleError) as refused:
        LoadedBundle.open(copy)
    assert str(refused.value) == (
        f"bundle {copy}: {name} has {len(content) - 1} bytes; the manifest says {len(content)}"
    )


@pytest.mark.parametrize("name", ALL_FILES)
def test_a_missing_file_is_refused(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(BundleError) as refused:
        LoadedBundle.open(copy)
    assert str(refused.value) == f"bundle {copy}: {name} is missing"


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_the_manifest_does_not_describe_is_refused(copy: Path, name: str) -> None:
    edit_manifest(copy, lambda fields: fields["files"].pop(name))
    with pytest.raises(BundleError) as refused:
        LoadedBundle.open(copy)
    assert str(refused.value) == f"bundle {copy}: {name} is missing"


@pytest.mark.parametrize("name", MODEL_FILES)
def test_a_models_file_that_the_manifest_does_not_describe_is_refused(copy: Path, name: str) -> None:
    edit_manifest(copy, lambda fields: fields["models"]["unified"]["files"].pop(name))
    with pytest.raises(BundleError, match=r"manifest\.json was altered: bundle_id is synthetic-"):
        LoadedBundle.open(copy)


def test_a_manifest_is_read_as_it_was_written_where_python_reads_ascii(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"format_version": "\u0447"}', encoding="utf-8")
    code = (
        "import sys; from pathlib import Path; from unipinrec.bundle import read_manifest\n"
        "try: read_manifest(Path(sys.argv[1]))\nexcept Exception as error: print(ascii(error))"
    )
    ascii_alone = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    told = subprocess.check_output([sys.executable, "-c", code, str(tmp_path)], env=os.environ | ascii_alone)
    assert b"format_version is \\u0447; allowed: 8" in told


@pytest.mark.parametrize("version", [0, 2, 5, None, "one"])
def test_another_format_version_is_refused(copy: Path, version: object) -> None:
    edit_manifest(copy, lambda fields: fields.update(format_version=version))
    with pytest.raises(BundleError) as refused:
        LoadedBundle.open(copy)
    assert str(refused.value) == f"bundle {copy}: manifest.json: format_version is {version}; allowed: 8"


def test_a_manifest_of_another_version_need_not_be_understood_to_be_refused(copy: Path) -> None:
    (copy / "manifest.json").write_text('{"format_version": 9, "unheard_of": []}')
    with pytest.raises(BundleError, match=r"manifest\.json: format_version is 9; allowed: 8$"):
        read_manifest(copy)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe\x00", b'{"format_version": 8}', b'{"format_version": 8, "files": "none"}'],
)
def test_an_unreadable_manifest_is_refused(copy: Path, content: bytes) -> None:
    (copy / "manifest.json").write_bytes(content)
    with pytest.raises(BundleError) as refused:
        LoadedBundle.open(copy)
    assert str(refused.value).startswith(f"bundle {copy}: manifest.json is unreadable: ")


def test_an_unknown_field_of_the_manifest_is_refused_by_name(copy: Path) -> None:
    edit_manifest(copy, lambda fields: fields["models"]["unified"]["config"].update(width_of_nothing=1))
    with pytest.raises(BundleError, match="width_of_nothing"):
        read_manifest(copy)


@pytest.mark.parametrize("make", [Path.exists, Path.mkdir, Path.touch])
def test_a_folder_without_a_manifest_is_refused(tmp_path: Path, make: Callable[[Path], None]) -> None:
    folder = tmp_path / "bundle"
    make(folder)
    with pytest.raises(BundleError) as refused:
        LoadedBundle.open(folder)
    assert str(refused.value) == f"bundle {folder} has no manifest.json"


def test_a_small_dataset_is_exported_as_it_is(bundles: Path) -> None:
    bundle = bundles / "current"
    assert json.loads((bundle / "catalogue.json").read_text()) == {
        "actions": ["click", "save"],
        "titles": {"10": "ten", "20": "zwänzig", "30": "thirty", "40": "40"},
    }
    assert read_manifest(bundle).defaults.num_results == 16


@pytest.mark.parametrize("index", ["flat", "hnsw", "ivf_hnsw", "sq8"])
def test_the_index_asked_for_is_written_and_recorded_and_the_same_again(
    shop: InteractionDataset, checkpoints: tuple[Path, Path], tmp_path: Path, index: str
) -> None:
    lines: list[str] = []
    bundle = write_bundle(checkpoints[0], shop, tmp_path / "one", index=index, report=lines.append)
    assert verify_bundle(bundle).index == index
    assert any(line.startswith("items.faiss: 4 items x ") and line.endswith(f", {index}") for line in lines)
    assert faiss.read_index(str(bundle / "items.faiss")).ntotal == 4
    again = write_bundle(checkpoints[0], shop, tmp_path / "two", index=index, report=silent)
    described, described_again = (verify_bundle(one).files for one in (bundle, again))
    differing = {name for name in FILES if described[name] != described_again[name]}
    # TorchScript numbers the classes of a process, so that graphs scripted twice in one have other bytes.
    assert not {name for name in differing if not name.endswith(".pt")}


def test_an_unknown_index_is_refused_before_anything_is_written(
    shop: InteractionDataset, checkpoints: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(
        UnknownIndexError, match=r"^index is annoy; allowed: flat, hnsw, ivf_hnsw, sq8, auto$"
    ):
        write_bundle(checkpoints[0], shop, tmp_path / "bundles", index="annoy", report=silent)
    assert not (tmp_path / "bundles").exists()


def test_a_bundle_is_the_same_whoever_the_users_are(
    shop: InteractionDataset, checkpoints: tuple[Path, Path], tmp_path: Path
) -> None:
    others = replace(
        shop,
        user_ids_U=np.array(["somebody else", "and another"], np.object_),
        timestamp_E=shop.timestamp_E + 1000,
    )
    bundle, same = (
        write_bundle(checkpoints[0], dataset, tmp_path / name, report=silent)
        for name, dataset in (("one", shop), ("two", others))
    )
    described, described_again = (verify_bundle(folder).files for folder in (bundle, same))
    differing = {name for name in FILES if described[name] != described_again[name]}
    # TorchScript numbers the classes of a process, so that graphs scripted twice in one have other bytes.
    assert not {name for name in differing if not name.endswith(".pt")}
    assert not any(b"somebody else" in (same / name).read_bytes() for name in (*FILES, "manifest.json"))


def test_current_leads_to_the_bundle_exported_last_and_older_ones_stay(
    shop: InteractionDataset, checkpoints: tuple[Path, Path], bundles: Path
) -> None:
    current = bundles / "current"
    assert current.is_symlink()
    opened = LoadedBundle.open(current)
    first = opened.folder
    assert first == bundles / opened.id
    second = write_bundle(checkpoints[1], shop, bundles, report=silent)
    assert second != first
    assert LoadedBundle.open(current).folder == second
    assert opened.folder == first
    assert {path.name for path in bundles.iterdir()} == {first.name, second.name, "current"}
    assert verify_bundle(first).model.head_hidden == 8
    assert verify_bundle(second).model.head_hidden == 12


def test_a_failed_graph_check_leaves_the_old_bundle_alone(
    shop: InteractionDataset,
    checkpoints: tuple[Path, Path],
    bundles: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    old = LoadedBundle.open(bundles / "current").folder
    monkeypatch.setattr("export.check.TOLERANCE", -1.0)
    with pytest.raises(ExportMismatchError, match=r"^encoder\.pt differs from eager by "):
        write_bundle(checkpoints[1], shop, bundles, report=silent)
    assert {path.name for path in bundles.iterdir()} == {old.name, "current"}
    assert LoadedBundle.open(bundles / "current").folder == old


@pytest.mark.parametrize("line", [0, 3])
def test_an_interrupted_export_leaves_nothing(
    shop: InteractionDataset, checkpoints: tuple[Path, Path], tmp_path: Path, line: int
) -> None:
    lines: list[str] = []

    def interrupt(text: str) -> None:
        lines.append(text)
        if len(lines) > line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_bundle(checkpoints[0], shop, tmp_path / "bundles", report=interrupt)
    assert len(lines) == line + 1
    assert list((tmp_path / "bundles").iterdir()) == []


def test_an_altered_manifest_is_refused(copy: Path) -> None:
    edit_manifest(copy, lambda fields: fields["defaults"].update(num_results=7))
    with pytest.raises(BundleError, match=r"manifest\.json was altered: bundle_id is synthetic-"):
        verify_bundle(copy)


def test_other_default_weights_make_another_bundle(
    bundles: Path, shop: InteractionDataset, checkpoints: tuple[Path, Path]
) -> None:
    before = (bundles / "current").resolve()
    info = shop.info.model_copy(update={"utility_weights": (5.0, 0.0)})
    after = write_bundle(checkpoints[0], replace(shop, info=info), bundles, report=silent)
    assert after.name != before.name
    assert verify_bundle(bundles / "current").defaults.utility_weights == (5.0, 0.0)


def test_a_checkpoint_of_another_dataset_is_refused(
    tmp_path: Path, exported: Exported, checkpoints: tuple[Path, Path]
) -> None:
    with pytest.raises(DatasetMismatchError, match="was trained on another dataset than synthetic"):
        write_bundle(checkpoints[0], exported.dataset, tmp_path, report=silent)
    assert list(tmp_path.iterdir()) == []
