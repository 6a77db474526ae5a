"""A bundle of random weights: it costs the compute of a trained one, and needs no training.

Shapes: V items, K results, A actions.
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
from numpy.typing import NDArray

from benchmarks.random_weights import spread_weights
from ensemble.arrays import Floats, Int64s
from ensemble.loaded_bundle import LoadedBundle
from ensemble.settings import ROOT
from export.bundle_writer import write_bundle
from loadtest.answers import Answer
from loadtest.histories import UserHistory
from unipinrec.bundle import UNIFIED, BundleError, Manifest, verify_bundle
from unipinrec.data.events import DatasetInfo
from unipinrec.data.history import History, rows_of
from unipinrec.data.interactions import InteractionDataset
from unipinrec.data.prepared import write_prepared
from unipinrec.models.common.known_items import known_items
from unipinrec.models.registry import find_model
from unipinrec.models.unified.config import preset
from unipinrec.models.unified.offline import OfflineRequest
from unipinrec.training.checkpoint import latest_checkpoint, load_model, save_model

UTILITY = (1.0, 2.0, 3.0, 0.0)
INFO = DatasetInfo(
    name="random",
    actions=("click", "save", "share", "hide"),
    surfaces=("home", "search"),
    sampled_impressions=True,
    utility_weights=UTILITY,
)
FIRST_ITEM, ITEM_STEP = 1_000, 3
"""External item ids are not rows, so that a mix-up shows."""

SEED = 11
CLUSTERS = 64
SOURCES = ("unipinrec", "export", "benchmarks/random_bundle.py", "benchmarks/random_weights.py")
"""What a bundle depends on; one that other sources wrote is not used again."""


@dataclass(frozen=True)
class RandomBundle:
    """The bundle that is served, and the checkpoint that offline answers come from."""

    folder: Path
    manifest: Manifest
    checkpoint: Path
    sizes: str
    """Preset of the model."""

    def load_model(self) -> Any:
        """Return the model in plain PyTorch."""
        return load_model(self.checkpoint)

    @cached_property
    def item_ids(self) -> Int64s:
        """External ids [V] by item row."""
        return LoadedBundle(self.folder, self.manifest).vocabulary().item_id_V

    @property
    def num_results(self) -> int:
        """The fewest results for which exactly `max_candidates` are ranked."""
        return -(-self.manifest.model.max_candidates // self.manifest.defaults.over_fetch)

    def shape(self) -> dict[str, Any]:
        """Return the sizes of the model, as reports have them."""
        model = self.manifest.model.model_dump(mode="json")
        return {"preset": self.sizes, "weights": "random", "num_results": self.num_results} | model

    def expected(self, answer: Answer, probability_KA: NDArray[np.float32]) -> Answer:
        """Return what an answer should be, given offline probabilities [K, A] of its items."""
        score_K = (probability_KA * np.array(UTILITY, np.float32)).sum(axis=1)
        return Answer(answer.item_id_K, score_K, probability_KA, self.manifest.bundle_id)

    def offline_request(self, sent: UserHistory) -> OfflineRequest:
        """Return the request with a history, in item rows."""
        item_row_N = rows_of(self.item_ids, sent.item_id_N)
        columns = {"actions_N": sent.actions_N, "timestamp_N": sent.timestamp_N, "surface_N": sent.surface_N}
        history = History(item_row_N=item_row_N, **columns)
        return OfflineRequest(history=history, request_time=sent.request_time)


def make_random_bundle(
    items: int,
    folder: Path,
    report: Callable[[str], None],
    *,
    sizes: str = "bench-cpu",
    retrieval_steps: int = 1,
    seed: int = SEED,
    content: int = 0,
) -> RandomBundle:
    """Return the bundle of a catalogue of `items` below `folder`, made unless an earlier run left it there.

    `sizes` names a preset of the model, `seed` is that of its weights, and `content` the width of the items'
    content vectors.
    """
    described = f"-{content}-wide" if content else ""
    base = folder / f"{sizes}-{items}-items{described}-{retrieval_steps}-steps-{seed}-{_digest()}"
    try:
        return _open(base, sizes)
    except BundleError:
        shutil.rmtree(base, ignore_errors=True)
    catalogue = pl.DataFrame({"item_id": FIRST_ITEM + ITEM_STEP * np.arange(items)})
    catalogue = catalogue.with_columns(title=pl.format("item {}", "item_id"))
    if content:
        rows = random_content(items, content, SEED).tolist()
        catalogue = catalogue.with_columns(content=pl.Series(rows, dtype=pl.List(pl.Float32)))
    # A dataset needs one history; requests bring their own.
    events = {"user_id": ["stored"], "item_id": [FIRST_ITEM], "actions": [1], "timestamp": [1_700_000_000]}
    write_prepared(base / "data", pl.DataFrame(events), catalogue, INFO)
    dataset = InteractionDataset.load(base / "data")
    checkpoint = _checkpoint(dataset, base / "checkpoints", sizes, seed)
    write_bundle(checkpoint, dataset, base / "bundles", retrieval_steps=retrieval_steps, report=report)
    return _open(base, sizes)


def random_content(items: int, width: int, seed: int) -> Floats:
    """Return content vectors [items, width] in clusters, the same ones for every seed."""
    centre = np.random.default_rng(SEED).normal(size=(CLUSTERS, width))
    draw = np.random.default_rng(seed)
    spread = 0.5 * draw.normal(size=(items, width))
    content: Floats = (centre[draw.integers(CLUSTERS, size=items)] + spread).astype(np.float32)
    return content


def _open(base: Path, sizes: str) -> RandomBundle:
    bundle = (base / "bundles" / "current").resolve()
    manifest, checkpoint = verify_bundle(bundle), latest_checkpoint(base / "checkpoints")
    if checkpoint is None:
        raise BundleError(f"bundle {bundle} has no checkpoint beside it")
    return RandomBundle(bundle, manifest, checkpoint, sizes)


def _checkpoint(dataset: InteractionDataset, folder: Path, sizes: str, seed: int) -> Path:
    config = preset(sizes, **dataset.catalogue_fields)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = find_model(UNIFIED).make(config)
    spread_weights(model, seed)
    if config.content_dim:
        seen = torch.ones(config.num_items)
        model.embedder.describe(known_items(dataset, config, seen))
    return save_model(folder, UNIFIED, config, model, dataset.info.sha256)


def _digest() -> str:
    made_by = hashlib.sha256()
    for path in (ROOT / source for source in SOURCES):
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            made_by.update(file.read_bytes())
    return made_by.hexdigest()[:12]
