"""What a prepared dataset contains, in numbers."""

from dataclasses import dataclass

import numpy as np
import polars as pl

from unipinrec.data.prepared import PreparedDataset

PERCENTILES = (10, 25, 50, 75, 90, 99)


@dataclass(frozen=True, slots=True)
class Summary:
    """Counts, rates and percentiles of one prepared dataset."""

    users: int
    items: int
    events: int
    """Rows: engaged events and impressions."""
    attributes: int
    """Distinct attributes of all items."""
    content_width: int
    """Numbers in a content vector; 0 when items have none."""
    impressions: int
    """Rows that were shown and not acted on."""
    action_rates: dict[str, float]
    """Share of rows with the action, by name."""
    feedviews: int
    feedview_sizes: dict[int, int]
    """Items per feedview, by percentile (nearest rank); empty without feedviews."""
    history_lengths: dict[int, int]
    """Engaged events per user, by percentile (nearest rank)."""


def summarize(dataset: PreparedDataset) -> Summary:
    """Count what a prepared dataset contains."""
    events = dataset.events
    actions = events["actions"]
    slates = events.drop_nulls("feedview_id").group_by("user_id", "feedview_id").len()
    lengths = events.group_by("user_id").agg(length=(pl.col("actions") != 0).sum())["length"]
    return Summary(
        users=len(lengths),
        items=len(dataset.items),
        attributes=dataset.items["attributes"].explode().drop_nulls().n_unique(),
        content_width=int(dataset.items["content"].list.len().to_numpy().max()),
        events=len(events),
        impressions=int((actions == 0).sum()),
        action_rates={
            name: int((actions & (1 << bit) != 0).sum()) / len(events)
            for bit, name in enumerate(dataset.info.actions)
        },
        feedviews=len(slates),
        feedview_sizes=_percentiles(slates["len"]),
        history_lengths=_percentiles(lengths),
    )


def _percentiles(values: pl.Series) -> dict[int, int]:
    if values.is_empty():
        return {}
    nearest = np.percentile(values.to_numpy(), PERCENTILES, method="inverted_cdf")
    return dict(zip(PERCENTILES, nearest.tolist(), strict=True))
