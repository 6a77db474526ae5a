"""Events of news datasets: slates as they were shown, after clicks from before the first of them."""

import polars as pl


def slate_events(history: pl.DataFrame, slates: pl.DataFrame) -> pl.DataFrame:
    """Return events by user and time: earlier clicks without a feedview, and slates with theirs.

    Both tables have `user_id`, `item_id`, `actions` and `timestamp`, and `slates` has `feedview_id`. A user's
    rows of one item and second become one: in the first of the slates, with the actions of all.
    """
    both = pl.concat([history.with_columns(feedview_id=pl.lit(None, pl.Int64)), slates], how="diagonal")
    ordered = both.sort("user_id", "timestamp", maintain_order=True)
    return ordered.group_by("user_id", "item_id", "timestamp", maintain_order=True).agg(
        pl.col("actions").bitwise_or(), pl.col("feedview_id").drop_nulls().first()
    )
