"""A bundle of random weights: it costs the compute of a trained one, and needs no training.

Shapes: V items.
"""

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from benchmarks.random_weights import spread_weights
from ensemble.arrays import Int64s
from ensemble.loaded_bundle import LoadedBundle
from ensemble.settings import ROOT
from export.bundle_writer import write_bundle
from unipinrec.bundle import UNIFIED, BundleError, Manifest, verify_bundle
from unipinrec.data.events import DatasetInfo
from unipinrec.data.interactions import InteractionDataset
from unipinrec.data.prepared import write_prepared
from unipinrec.models.config import JointTraining
from unipinrec.models.registry import find_model
from unipinrec.models.unified.config import preset
from unipinrec.training.checkpoint import CheckpointState, latest_checkpoint, load_model, save_checkpoint

PRESET = "bench-cpu"
"""Sizes of the model, where nothing else is asked for."""

ACTIONS = ("click", "save", "share", "hide")
SURFACES = ("home", "search")
UTILITY = (1.0, 2.0, 3.0, 0.0)
FIRST_ITEM, ITEM_STEP = 1_000, 3
"""External item ids are not rows, so that a mix-up shows."""

SEED = 11
SOURCES = ("unipinrec", "export", "benchmarks/random_bundle.py", "benchmarks/random_weights.py")
"""What a bundle depends on; one that other sources wrote is not used again."""


@dataclass(frozen=True)
class RandomBundle:
    """The bundle that is served, and the checkpoint that offline answers come from."""

    folder: Path
    manifest: Manifest
    checkpoint: Path

    def load_model(self) -> Any:
        """The model in plain PyTorch."""
        return load_model(self.checkpoint)

    @cached_property
    def item_ids(self) -> Int64s:
        """External ids [V] by item row."""
        return LoadedBundle(self.folder, self.manifest).vocabulary().item_id_V

    @property
    def num_results(self) -> int:
        """The fewest results for which exactly `max_candidates` are ranked."""
        return -(-self.manifest.model.max_candidates // self.manifest.defaults.over_fetch)


def make_random_bundle(
    items: int,
    folder: Path,
    report: Callable[[str], None],
    *,
    sizes: str = PRESET,
    retrieval_steps: int = 1,
) -> RandomBundle:
    """The bundle of a catalogue of `items` below `folder`, made unless an earlier run left it there.

    `sizes` names a preset of the model.
    """
    base = folder / f"{sizes}-{items}-items-{retrieval_steps}-steps-{_digest()}"
    try:
        return _open(base)
    except BundleError:
        shutil.rmtree(base, ignore_errors=True)
    dataset = _dataset(items, base / "data")
    checkpoint = _checkpoint(dataset, base / "checkpoints", sizes)
    write_bundle(checkpoint, dataset, base / "bundles", retrieval_steps=retrieval_steps, report=report)
    return _open(base)


def _open(base: Path) -> RandomBundle:
    bundle = (base / "bundles" / "current").resolve()
    manifest = verify_bundle(bundle)
    checkpoint = latest_checkpoint(base / "checkpoints")
    if checkpoint is None:
        raise BundleError(f"bundle {bundle} has no checkpoint beside it")
    return RandomBundle(bundle, manifest, checkpoint)


def _dataset(items: int, folder: Path) -> InteractionDataset:
    """A catalogue, and the one history that a dataset needs; requests bring their own."""
    info = DatasetInfo(
        name="random",
        actions=ACTIONS,
        surfaces=SURFACES,
        sampled_impressions=True,
        utility_weights=UTILITY,
    )
    catalogue = pl.DataFrame({"item_id": FIRST_ITEM + ITEM_STEP * np.arange(items)})
    catalogue = catalogue.with_columns(title=pl.format("item {}", "item_id"))
    events = {"user_id": ["stored"], "item_id": [FIRST_ITEM], "actions": [1], "timestamp": [1_700_000_000]}
    write_prepared(folder, pl.DataFrame(events), catalogue, info)
    return InteractionDataset.load(folder)


def _checkpoint(dataset: InteractionDataset, folder: Path, sizes: str) -> Path:
    config = preset(sizes, **dataset.catalogue_fields)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = find_model(UNIFIED).make(config)
    spread_weights(model, SEED)
    state = CheckpointState(
        spec=UNIFIED,
        epoch=1,
        step=0,
        model=config,
        training=JointTraining(epochs=1),
        dataset=dataset.info.sha256,
    )
    weights = {f"model.{name}": weight for name, weight in model.state_dict().items()}
    return save_checkpoint(folder, state, weights, torch.optim.AdamW(model.parameters()))


def _digest() -> str:
    made_by = hashlib.sha256()
    for source in SOURCES:
        path = ROOT / source
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            made_by.update(file.read_bytes())
    return made_by.hexdigest()[:12]
