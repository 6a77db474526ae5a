"""Users who stay within one cluster of items each: a dataset that training learns in seconds."""

from pathlib import Path

import numpy as np
import polars as pl

from unipinrec.data.events import DatasetInfo
from unipinrec.data.interactions import InteractionDataset
from unipinrec.data.prepared import write_prepared

ITEMS, CLUSTERS = 40, 4


def cluster_dataset(folder: Path, users: int) -> InteractionDataset:
    """Histories of 4 to 19 events, in feedviews of three."""
    draw = np.random.default_rng(3)
    rows = []
    for user in range(users):
        cluster = user % CLUSTERS
        for event in range(int(draw.integers(4, 20))):
            item = cluster * (ITEMS // CLUSTERS) + int(draw.integers(ITEMS // CLUSTERS))
            rows.append((f"user-{user}", item, int(draw.integers(1, 4)), 1000 * event, event // 3))
    info = DatasetInfo(
        name="clusters", actions=("click", "save"), sampled_impressions=True, utility_weights=(1.0, 1.0)
    )
    columns = ["user_id", "item_id", "actions", "timestamp", "feedview_id"]
    items = pl.DataFrame({"item_id": range(ITEMS)})
    write_prepared(folder, pl.DataFrame(rows, columns, orient="row"), items, info)
    return InteractionDataset.load(folder)
