"""The event format: column types, what a dataset says of itself, and the checks on both."""

import math
from typing import Annotated, Self

import polars as pl
from pydantic import Field, model_validator

from unipinrec.config import Config
from unipinrec.history_store import LONGEST_USER_ID

EVENT_SCHEMA = pl.Schema(
    {
        "user_id": pl.String,
        "item_id": pl.Int64,
        "actions": pl.Int64,
        "surface": pl.Int32,
        "timestamp": pl.Int64,
        "feedview_id": pl.Int64,
    }
)
ITEM_SCHEMA = pl.Schema({"item_id": pl.Int64, "title": pl.String})
REQUIRED = ("user_id", "item_id", "actions", "timestamp")
ORDER = ("user_id", "timestamp")
TIE_RULE = "events of one user with equal timestamps keep the order of the log"
LATEST_TIMESTAMP = 99_999_999_999
"""Seconds; a log in milliseconds exceeds it, and is refused instead of being read as the far future."""

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]


class EventFormatError(ValueError):
    """A table that is not in the event format. One line: column, value, row and what is allowed."""


class DatasetInfo(Config):
    """What a prepared dataset says of itself, `dataset.json`."""

    name: Name
    """Part of bundle ids and file names, hence letters, digits, dots, dashes and underscores."""
    actions: Annotated[tuple[Name, ...], Field(min_length=1, max_length=32)]
    """Action names; the position of a name is its bit in the `actions` column."""
    surfaces: Annotated[tuple[Name, ...], Field(min_length=1)] = ("default",)
    """Surface names; the position of a name is its number in the `surface` column."""
    tie_rule: str = TIE_RULE
    """How events of a user with equal timestamps are ordered."""
    sampled_impressions: bool
    """True when the log has no impressions, so that training draws items the user did not engage with."""
    utility_weights: tuple[float, ...]
    """Default weight of each action's probability in a score."""
    sha256: dict[str, str] = Field(default_factory=dict)
    """Hashes of the tables beside this file, set when the dataset is written."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        for field in ("actions", "surfaces"):
            names: tuple[str, ...] = getattr(self, field)
            if len(set(names)) < len(names):
                raise ValueError(f"{field} is {', '.join(names)}; allowed: every name once")
        weights = self.utility_weights
        if len(weights) != len(self.actions) or not all(math.isfinite(w) and w >= 0 for w in weights):
            raise ValueError(
                f"utility_weights is {list(weights)}; allowed: {len(self.actions)} finite numbers >= 0"
            )
        return self


def validate_events(frame: pl.DataFrame, info: DatasetInfo) -> pl.DataFrame:
    """The events in `EVENT_SCHEMA`, ordered by `ORDER` with ties as they were.

    Optional columns are filled in, others left out.

    Rows are numbered from 1 in error messages.

    Raises:
        EventFormatError: a column is missing or of another type, or a row breaks a rule of the format.
    """
    for name in REQUIRED:
        if name not in frame.columns:
            columns = f"{', '.join(REQUIRED)} and optionally surface, feedview_id"
            raise EventFormatError(f"{name} is missing; allowed: columns {columns}")
    if frame.is_empty():
        raise EventFormatError("events is empty; allowed: at least one row")
    events = _typed(_with_optional_columns(frame), EVENT_SCHEMA)
    for name in (*REQUIRED, "surface"):
        _refuse(events, name, pl.col(name).is_null(), "a value in every row")
    _check_ranges(events, info)
    _check_rows_of_a_user(events)
    return events.sort(ORDER, maintain_order=True)


def validate_items(frame: pl.DataFrame) -> pl.DataFrame:
    """The items in `ITEM_SCHEMA`, ordered by id; a missing title column is filled with nulls.

    Raises:
        EventFormatError: `item_id` is missing, null, negative or repeated, or a column has another type.
    """
    if "item_id" not in frame.columns:
        raise EventFormatError("item_id is missing; allowed: columns item_id, and optionally title")
    if "title" not in frame.columns:
        frame = frame.with_columns(title=pl.lit(None, pl.String))
    items = _typed(frame, ITEM_SCHEMA)
    _refuse(items, "item_id", pl.col("item_id").is_null(), "a value in every row")
    _refuse(items, "item_id", pl.col("item_id") < 0, "0 or more")
    _refuse(items, "item_id", ~pl.col("item_id").is_first_distinct(), "every item once")
    return items.sort("item_id")


def _with_optional_columns(frame: pl.DataFrame) -> pl.DataFrame:
    optional = {"surface": pl.lit(0, pl.Int32), "feedview_id": pl.lit(None, pl.Int64)}
    return frame.with_columns(
        **{name: value for name, value in optional.items() if name not in frame.columns}
    )


def _typed(frame: pl.DataFrame, schema: pl.Schema) -> pl.DataFrame:
    return pl.DataFrame([_typed_column(frame[name], dtype) for name, dtype in schema.items()])


def _typed_column(column: pl.Series, dtype: pl.DataType) -> pl.Series:
    """The column as `dtype`. CSV knows no types, so text of an integer is an integer."""
    convertible = column.dtype.is_integer() or column.dtype == pl.String
    if column.dtype in (dtype, pl.Null) or (dtype.is_integer() and convertible):
        typed = column.cast(dtype, strict=False)
        _refuse(column.to_frame(), column.name, typed.is_null() & column.is_not_null(), f"{dtype}")
        return typed
    raise EventFormatError(f"{column.name} has type {column.dtype}; allowed: {dtype}")


def _check_ranges(events: pl.DataFrame, info: DatasetInfo) -> None:
    largest_mask = 2 ** len(info.actions) - 1
    last_surface = len(info.surfaces) - 1
    user_bytes = pl.col("user_id").str.len_bytes()
    _refuse(events, "user_id", ~user_bytes.is_between(1, LONGEST_USER_ID), f"1 to {LONGEST_USER_ID} bytes")
    _refuse(events, "item_id", pl.col("item_id") < 0, "0 or more")
    _refuse(events, "actions", ~pl.col("actions").is_between(0, largest_mask), f"0 to {largest_mask}")
    _refuse(events, "surface", ~pl.col("surface").is_between(0, last_surface), f"0 to {last_surface}")
    in_time = pl.col("timestamp").is_between(0, LATEST_TIMESTAMP)
    _refuse(events, "timestamp", ~in_time, f"unix seconds, 0 to {LATEST_TIMESTAMP}")


def _check_rows_of_a_user(events: pl.DataFrame) -> None:
    first = pl.struct("user_id", "item_id", "timestamp").is_first_distinct()
    _refuse(events, "item_id", ~first, "once per user_id and timestamp")
    earlier = pl.col("timestamp") < pl.col("timestamp").shift(1).over("user_id")
    _refuse(events, "timestamp", earlier, "ascending within a user_id")


def _refuse(frame: pl.DataFrame, column: str, wrong: pl.Expr | pl.Series, allowed: str) -> None:
    """Raise an error that names the first row where `wrong` holds, if there is one."""
    found = frame.with_row_index("row", offset=1).filter(wrong).select("row", column).head(1)
    for row, value in found.iter_rows():
        shown = "null" if value is None else repr(value)
        raise EventFormatError(f"{column} is {shown} in row {row}; allowed: {allowed}")
