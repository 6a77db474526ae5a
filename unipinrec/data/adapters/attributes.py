"""Item attributes: side features with names, numbered."""

from collections.abc import Iterable

import polars as pl


def named(frame: pl.DataFrame, namespace: str, value: str | pl.Expr) -> pl.DataFrame:
    """Pairs of `item_id` and a name `<namespace>=<value>`; a null value names nothing.

    `value` is a column or expression of single values; lists are exploded by the caller.
    """
    return frame.select("item_id", name=pl.format(f"{namespace}={{}}", value)).drop_nulls()


def numbered(pairs: Iterable[pl.DataFrame]) -> pl.DataFrame:
    """`item_id` and `attributes`: a name's number is its place among all names in byte order, from 0."""
    table = pl.concat(pairs)
    number = pl.col("name").rank("dense").cast(pl.Int64) - 1
    return table.select("item_id", attributes=number).group_by("item_id").agg("attributes")
