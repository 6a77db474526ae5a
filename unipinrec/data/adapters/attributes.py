"""Item attributes: side features with names, numbered."""

from collections.abc import Mapping

import polars as pl


def attributes_of(items: pl.DataFrame, features: Mapping[str, str | pl.Expr]) -> pl.DataFrame:
    """Return `item_id` and `attributes` of the items that have some.

    `features` are columns or expressions of values, or of lists of values, by name. Each different text
    `<name>=<value>` is an attribute; its number is its rank among all in byte order, from 0. A null is none.
    """
    texts = pl.concat(
        items.select("item_id", value=pl.concat_list(values))
        .explode("value")
        .drop_nulls()
        .select("item_id", text=pl.format(f"{name}={{}}", "value"))
        for name, values in features.items()
    )
    number = pl.col("text").rank("dense").cast(pl.Int64) - 1
    return texts.select("item_id", attributes=number).group_by("item_id").agg("attributes")
