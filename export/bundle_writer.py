"""Writes a bundle from checkpoints and a dataset: graphs, index, vocabularies, manifest."""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import faiss
import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from export.check import refuse_if_different
from export.graph_files import write_graph
from export.item_index import AUTO, build_checked, choose_kind
from export.policy_card import checked_card
from unipinrec import bundle
from unipinrec.bundle import (
    FILES,
    FORMAT_VERSION,
    MANIFEST,
    POLICY,
    SECOND_RANKERS,
    BundleError,
    BundleModel,
    IndexKind,
    Manifest,
    ServingDefaults,
    content_id,
    describe_file,
    verify_bundle,
)
from unipinrec.data.interactions import InteractionDataset
from unipinrec.models.common.exports import Exports
from unipinrec.models.policy.card import CARD
from unipinrec.models.registry import find_model
from unipinrec.training.checkpoint import CheckpointState, load_model, load_state

Report = Callable[[str], None]


class DatasetMismatchError(Exception):
    """Item rows of a checkpoint mean nothing in another dataset."""


class NotServedError(Exception):
    """A checkpoint holds a model that no bundle has room for."""


def write_bundle(
    checkpoint: Path,
    dataset: InteractionDataset,
    bundles: Path,
    *,
    beside: Sequence[Path] = (),
    policy_card: Path | None = None,
    retrieval_steps: int = 1,
    merge_cosine: float = 0.98,
    index: str = AUTO,
    report: Report = print,
) -> Path:
    """Export into `bundles/<bundle_id>`, point `bundles/current` at it, and return its path.

    The checkpoint's model gives the item vectors; `beside` has checkpoints of further models of the dataset,
    and `policy_card` is for the policy among them.
    `retrieval_steps` and `merge_cosine` are those of `ServingDefaults`. `index` is one of
    `export.item_index.CHOICES`. `report` gets one line for every step.

    Raises:
        UnknownIndexError: there is no such index.
        IndexRecallError: the index finds too few of the nearest items.
        DatasetMismatchError: a checkpoint was trained on another dataset.
        NotServedError: a model is there to compare with, two checkpoints are of the same model or are both
            second rankers, or the first model has no item vectors.
        PolicyCardError: a policy has no card, or one that does not fit.
        ExportMismatchError: an exported graph differs from eager PyTorch.
    """
    # Before anything is computed.
    choose_kind(index, len(dataset.item_ids_V))
    found = [(path, load_state(path)) for path in (checkpoint, *beside)]
    states = {state.spec: state for _, state in found}
    if len(states) < len(found):
        names = ", ".join(state.spec for _, state in found)
        raise NotServedError(f"models are {names}; allowed: one of each")
    rankers = [name for name in SECOND_RANKERS if name in states]
    if len(rankers) > 1:
        raise NotServedError(f"second rankers are {', '.join(rankers)}; allowed: one of them")
    checkpoints = {state.spec: path for path, state in found}
    card = checked_card(policy_card, checkpoints, states, dataset.info.utility_weights)
    exports = {state.spec: _exports(path, state, dataset) for path, state in found}
    if card is not None:
        exports[POLICY] = replace(exports[POLICY], texts={CARD: card})
    first = found[0][1]
    vector_VE = exports[first.spec].item_vector_VE
    if vector_VE is None:
        raise NotServedError(
            f"{checkpoint} holds the model {first.spec}, which has no item vectors; it may "
            "stand behind one that has"
        )
    bundles.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=bundles) as temporary:
        folder = Path(temporary)
        models = {
            name: _write_model(state, exports[name], folder / name, report) for name, state in states.items()
        }
        kind = _write_items(vector_VE, dataset, folder, index, report)
        titles = dict(zip(map(str, dataset.item_ids_V), map(str, dataset.titles_V), strict=True))
        catalogue = json.dumps({"actions": dataset.info.actions, "titles": titles}, ensure_ascii=False)
        (folder / bundle.CATALOGUE).write_text(catalogue, encoding="utf-8")
        defaults = ServingDefaults(
            num_results=min(50, first.model.max_candidates),
            utility_weights=dataset.info.utility_weights,
            outcome_weights=(0.0,) * len(dataset.info.actions),
            retrieval_steps=retrieval_steps,
            merge_cosine=merge_cosine,
        )
        manifest = _manifest(folder, models, dataset, defaults, kind)
        (folder / MANIFEST).write_text(manifest.model_dump_json(indent=2), encoding="utf-8")
        final = _publish(folder, bundles, manifest.bundle_id)
    report(f"bundle {manifest.bundle_id} written to {final}")
    return final


def _exports(checkpoint: Path, state: CheckpointState, dataset: InteractionDataset) -> Exports:
    if not dataset.info.sha256.items() <= state.dataset.items():
        raise DatasetMismatchError(
            f"{checkpoint} was trained on another dataset than {dataset.info.name} with "
            f"{len(dataset.item_ids_V)} items; allowed: the dataset of its training"
        )
    exports = find_model(state.spec).exports
    if exports is None:
        raise NotServedError(f"{checkpoint} holds the model {state.spec}, which is not served")
    return exports(load_model(checkpoint))


def _write_model(state: CheckpointState, exports: Exports, folder: Path, report: Report) -> BundleModel:
    folder.mkdir()
    for name, graph in exports.graphs.items():
        loaded = write_graph(folder / name, graph)
        difference = max(refuse_if_different(name, loaded, graph.module, call) for call in graph.calls)
        report(f"{name}: differs from eager by at most {difference:.1e}")
    if exports.weights is not None:
        weights = {name: weight.contiguous() for name, weight in exports.weights.items()}
        save_file(weights, folder / bundle.WEIGHTS)
    if exports.reloaded is not None:
        served = exports.reloaded
        loaded = served.load(folder / bundle.WEIGHTS)
        compared = [refuse_if_different(state.spec, loaded, served.module, call) for call in served.calls]
        report(f"{state.spec}: differs from eager by at most {max(compared):.1e}")
    for name, text in exports.texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    return BundleModel(
        files={path.name: describe_file(path) for path in sorted(folder.iterdir())},
        config=state.model.model_dump(mode="json"),
        training_metrics=state.metrics,
    )


def _write_items(
    vector_VE: Tensor, dataset: InteractionDataset, folder: Path, choice: str, report: Report
) -> IndexKind:
    kind, index = build_checked(choice, vector_VE.numpy(), report)
    faiss.write_index(index, str(folder / bundle.INDEX))
    item_id_V = torch.from_numpy(dataset.item_ids_V.astype(np.int64))
    attribute_id_A = torch.from_numpy(dataset.attribute_ids_A)
    items = {"item_id_V": item_id_V, "attribute_id_A": attribute_id_A, "vector_VE": vector_VE}
    save_file(items, folder / bundle.ITEMS)
    report(f"{bundle.INDEX}: {index.ntotal} items x {index.d}, {kind}")
    return kind


def _manifest(
    folder: Path,
    models: dict[str, BundleModel],
    dataset: InteractionDataset,
    defaults: ServingDefaults,
    kind: IndexKind,
) -> Manifest:
    info = dataset.info
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        bundle_id="",
        created=datetime.now(UTC),
        dataset=info.name,
        actions=info.actions,
        surfaces=info.surfaces,
        history_impressions=info.history_impressions,
        content_dim=dataset.content_VF.shape[1],
        models=models,
        defaults=defaults,
        index=kind,
        files={name: describe_file(folder / name) for name in FILES},
        torch_version=torch.__version__,
        git_commit=_git_commit(),
    )
    return manifest.model_copy(update={"bundle_id": content_id(manifest)})


def _git_commit() -> str:
    git = shutil.which("git")
    if git is None:
        return "unknown"
    command = [git, "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return found.stdout.strip() if found.returncode == 0 else "unknown"


def _publish(folder: Path, bundles: Path, bundle_id: str) -> Path:
    """Sync the finished folder to disk, rename it into place, and switch `current` in one step."""
    for path in folder.rglob("*"):
        # A server may run as another user than the exporter.
        path.chmod(0o755 if path.is_dir() else 0o644)
        _sync(path)
    _sync(folder)
    final = bundles / bundle_id
    try:
        verify_bundle(final)
    except BundleError:
        shutil.rmtree(final, ignore_errors=True)
        folder.chmod(0o755)
        folder.rename(final)
        folder.mkdir()  # the temporary folder's owner removes it
    pointer = bundles / f".current-{os.getpid()}"
    pointer.unlink(missing_ok=True)
    pointer.symlink_to(bundle_id)
    pointer.rename(bundles / "current")
    _sync(bundles)
    return final


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
