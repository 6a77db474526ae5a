"""A bundle of items with attributes and content, of which training has never seen some."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch

from ensemble.stores.catalogue_store import Item
from export.bundle_writer import write_bundle
from tests.conftest import ACTIONS, SERVED
from unipinrec.bundle import UNIFIED
from unipinrec.data.events import DatasetInfo
from unipinrec.data.interactions import InteractionDataset
from unipinrec.data.prepared import write_prepared
from unipinrec.models.common.known_items import known_items
from unipinrec.models.unified.config import preset
from unipinrec.models.unified.module import UnifiedRecommender
from unipinrec.training.checkpoint import save_model

ITEMS, COLD_FROM, CONTENT = 300, 200, 12
"""Items from the row `COLD_FROM` on are in no event."""
FIRST_ITEM, ITEM_STEP = 1_000, 3


@dataclass(frozen=True)
class Described:
    """A bundle, and what it was made of."""

    folder: Path
    dataset: InteractionDataset
    model: UnifiedRecommender
    items: pl.DataFrame

    def item(self, row: int) -> Item:
        """What an item of the bundle is described by."""
        _, title, attributes, content = self.items.row(row)
        return Item(tuple(attributes), tuple(content), title)

    def item_id(self, row: int) -> int:
        """External id."""
        return int(self.dataset.item_ids_V[row])


def describe_bundle(folder: Path, seed: int = 3) -> Described:
    """Write the bundle of random weights of a seed into `folder`."""
    draw = np.random.default_rng(3)
    ids = FIRST_ITEM + ITEM_STEP * np.arange(ITEMS)
    items = pl.DataFrame(
        {
            "item_id": ids,
            "title": [f"item {item_id}" for item_id in ids],
            "attributes": [sorted(7 * draw.choice(20, size=draw.integers(4), replace=False)) for _ in ids],
            "content": draw.normal(size=(ITEMS, CONTENT)).astype(np.float32).tolist(),
        },
        schema_overrides={"attributes": pl.List(pl.Int64), "content": pl.List(pl.Float32)},
    )
    events = pl.DataFrame(
        {
            "user_id": [f"user-{n // 20}" for n in range(20 * 30)],
            "item_id": ids[np.r_[:COLD_FROM, draw.integers(COLD_FROM, size=20 * 30 - COLD_FROM)]],
            "actions": draw.integers(1, 2 ** len(ACTIONS), size=20 * 30),
            "timestamp": 1_700_000_000 + 60 * np.arange(20 * 30),
        }
    )
    info = DatasetInfo(
        name="described", actions=ACTIONS, sampled_impressions=True, utility_weights=(1.0, 0.5, 0.0)
    )
    if not (folder / "data").exists():
        write_prepared(folder / "data", events, items, info)
    dataset = InteractionDataset.load(folder / "data")
    config = preset("tiny", **dataset.catalogue_fields)
    torch.manual_seed(seed)
    model = UnifiedRecommender(config)
    for name, weight in model.named_parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.3 if "ranking_head" in name else 0.15)
    counts = np.bincount(dataset.item_row_E, minlength=ITEMS)
    model.embedder.describe(known_items(dataset, config, torch.from_numpy(counts)))
    checkpoint = save_model(folder / f"checkpoints-{seed}", UNIFIED, config, model, dataset.info.sha256)
    bundle = write_bundle(checkpoint, dataset, folder / "bundles", **SERVED)
    return Described(bundle, dataset, model.eval(), items)
