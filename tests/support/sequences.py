"""A prepared dataset out of bare item sequences."""

from pathlib import Path

import polars as pl

from unipinrec.data.events import DatasetInfo
from unipinrec.data.interactions import InteractionDataset
from unipinrec.data.prepared import write_prepared

INFO = DatasetInfo(name="toy", actions=("watch",), sampled_impressions=True, utility_weights=(1.0,))
SEQUENCES = {"u": [0, 1, 2, 3], "v": [0, 1, 3], "w": [0, 2, 3, 1], "x": [4]}


def sequence_dataset(folder: Path, sequences: dict[str, list[int]]) -> InteractionDataset:
    """Users' items in order, one a second, each watched."""
    rows = [(user, item, 1, time) for user, items in sequences.items() for time, item in enumerate(items)]
    events = pl.DataFrame(rows, ["user_id", "item_id", "actions", "timestamp"], orient="row")
    write_prepared(folder, events, None, INFO)
    return InteractionDataset.load(folder)
