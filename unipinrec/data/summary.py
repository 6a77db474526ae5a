"""What a prepared dataset contains, in numbers."""

import numpy as np
import polars as pl

from unipinrec.data.prepared import PreparedDataset

PERCENTILES = (10, 25, 50, 75, 90, 99)


def summarize(dataset: PreparedDataset) -> dict[str, int | float]:
    """Return counts, shares of rows with each action, and percentiles (nearest rank) by what they count.

    Events are all rows, engaged ones and impressions; a history has the engaged events of one user.
    """
    events, items = dataset.events, dataset.items
    actions = events["actions"]
    slates = events.drop_nulls("feedview_id").group_by("user_id", "feedview_id").len()
    histories = events.group_by("user_id").agg(length=(pl.col("actions") != 0).sum())
    found: dict[str, int | float] = {
        "users": len(histories),
        "items": len(items),
        "attributes": items["attributes"].explode().drop_nulls().n_unique(),
        "content width": int(items["content"].list.len().to_numpy().max()),
        "events": len(events),
        "impressions": int((actions == 0).sum()),
        "feedviews": len(slates),
    }
    for bit, name in enumerate(dataset.info.actions):
        found[f"rate of {name}"] = int((actions & (1 << bit) != 0).sum()) / len(events)
    for name, values in {"feedview size": slates["len"], "history": histories["length"]}.items():
        if len(values):
            ranks = np.percentile(values.to_numpy(), PERCENTILES, method="inverted_cdf")
            found |= {f"{name}, percentile {p}": int(v) for p, v in zip(PERCENTILES, ranks, strict=True)}
    return found
