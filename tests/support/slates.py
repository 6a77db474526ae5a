"""Small random logs of slates: several users at the same second, items shown twice, users who never act."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from unipinrec.data.events import DatasetInfo
from unipinrec.data.interactions import InteractionDataset
from unipinrec.data.prepared import write_prepared

ITEMS, ATTRIBUTES = 12, 4


class Shown(NamedTuple):
    """One row of a log; the item's external id is its row."""

    user_id: str
    item_id: int
    actions: int
    surface: int
    timestamp: int
    feedview_id: int | None


def random_rows(seed: int, users: int = 6, feedviews: int = 9) -> list[Shown]:
    """Return slates of 1 to 6 rows; the first user never acts, and times are few."""
    random = np.random.default_rng(seed)
    rows = []
    for user in range(users):
        time = 100
        for feedview in range(feedviews):
            time += int(random.integers(1, 4))
            for item in random.permutation(ITEMS)[: random.integers(1, 6)].tolist():
                actions = int(random.choice([0, 0, 1, 3, 4])) if user else 0
                rows.append(Shown(f"u{user}", item, actions, feedview % 2, time, feedview))
            if random.random() < 0.4:
                time += 1
                rows.append(
                    Shown(f"u{user}", rows[-1].item_id, 1 if user else 0, feedview % 2, time, feedview)
                )
    return rows


def load(folder: Path, rows: list[Shown], **info: bool) -> InteractionDataset:
    """Prepare the rows; item v has v % 4 of 4 attributes."""
    random = np.random.default_rng(5)
    attributes = [sorted(random.permutation(ATTRIBUTES)[: item % 4].tolist()) for item in range(ITEMS)]
    items = pl.DataFrame({"item_id": range(ITEMS), "attributes": attributes})
    described = DatasetInfo.model_validate(
        {"name": "slates", "actions": ("click", "save", "hide"), "surfaces": ("home", "search"),
         "utility_weights": (1.0, 1.0, 0.0), "sampled_impressions": False, **info}
    )  # fmt: skip
    events = pl.DataFrame(rows, list(Shown._fields), orient="row")
    write_prepared(folder / "slates", events, items, described)
    return InteractionDataset.load(folder / "slates")
