"""The event format: column types, what a dataset says of itself, and the checks on both."""

import math
import re
from collections.abc import Sequence
from typing import Annotated, Any, Self

import polars as pl
from pydantic import AfterValidator, Field, model_validator

from unipinrec.config import Config
from unipinrec.data.limits import (
    LARGEST_ATTRIBUTE,
    LARGEST_CONTENT,
    LATEST_TIMESTAMP,
    LONGEST_USER_ID,
    MOST_ACTIONS,
    MOST_ATTRIBUTES,
)

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
ITEM_SCHEMA = pl.Schema(
    {
        "item_id": pl.Int64(),
        "title": pl.String(),
        "attributes": pl.List(pl.Int64),
        "content": pl.List(pl.Float32),
    }
)
REQUIRED = ("user_id", "item_id", "actions", "timestamp")
ORDER = ("user_id", "timestamp")
TIE_RULE = "events of one user with equal timestamps keep the order of the log"
WIDEST_CONTENT = 8192
"""Numbers in a content vector. In memory, all items have a vector."""
MOST_SHOWN_TOGETHER = 1024
"""Rows of one feedview. In training, all feedviews of a batch have as many entries as the largest."""
SHOWN_CHARACTERS = 80
"""Characters of a refused value in its error message."""
LONGEST_NAME = 100


class EventFormatError(ValueError):
    """Says in one line what is not in the event format: column, value, row and what is allowed."""


def _is_name(text: str) -> bool:
    return len(text) <= LONGEST_NAME and bool(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", text))


def _checked_name(text: str) -> str:
    if not _is_name(text):
        raise ValueError(
            f"allowed: at most {LONGEST_NAME} letters, digits, dots, dashes and underscores, no mark first"
        )
    return text


Name = Annotated[str, AfterValidator(_checked_name)]


def name_from(text: str) -> str:
    """Return a dataset's name made of a file's or folder's: what names may not have becomes a dash.

    Raises `EventFormatError` if nothing is left.
    """
    name = text if _is_name(text) else re.sub(r"[^A-Za-z0-9._]+", "-", text).strip("-._")[:LONGEST_NAME]
    if not name:
        raise EventFormatError(f"no name can be made of {text!r}; name the dataset with --name")
    return name


class DatasetInfo(Config):
    """What a prepared dataset says of itself, `dataset.json`."""

    name: Name
    """Part of bundle ids and file names, hence letters, digits, dots, dashes and underscores."""
    actions: Annotated[tuple[Name, ...], Field(min_length=1, max_length=MOST_ACTIONS)]
    """Action names; the position of a name is its bit in the `actions` column."""
    surfaces: Annotated[tuple[Name, ...], Field(min_length=1)] = ("default",)
    """Surface names; the position of a name is its number in the `surface` column."""
    tie_rule: str = TIE_RULE
    """How events of a user with equal timestamps are ordered."""
    sampled_impressions: bool
    """True when the log has no impressions, so that training draws items the user did not engage with."""
    history_impressions: bool = False
    """Whether what was shown and not acted on is part of histories, as an event without action. It tells how
    often someone acts, and fills the window faster."""
    positive_actions: Annotated[tuple[Name, ...], Field(min_length=1)] = Field(
        # A dataset whose actions are refused has none here, and the refusal of its actions is what is told.
        default_factory=lambda validated: validated.get("actions", ())
    )
    """Actions that make an item worth retrieving; by default all of them."""
    utility_weights: tuple[float, ...]
    """Default weight of each action's probability in a score."""
    sha256: dict[str, str] = Field(default_factory=dict)
    """Hashes of the tables beside this file, set when the dataset is written."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        for field in ("actions", "surfaces", "positive_actions"):
            names: tuple[str, ...] = getattr(self, field)
            if len(set(names)) < len(names):
                raise ValueError(f"{field} is {', '.join(names)}; allowed: every name once")
        if not set(self.positive_actions) <= set(self.actions):
            positive, allowed = ", ".join(self.positive_actions), ", ".join(self.actions)
            raise ValueError(f"positive_actions is {positive}; allowed: some of {allowed}")
        weights = self.utility_weights
        if len(weights) != len(self.actions) or not all(math.isfinite(w) and w >= 0 for w in weights):
            raise ValueError(
                f"utility_weights is {list(weights)}; allowed: {len(self.actions)} finite numbers >= 0"
            )
        return self


def require_columns(found: Sequence[str], required: Sequence[str], optional: Sequence[str] = ()) -> None:
    """Raise `EventFormatError` for the first required column that was not found."""
    for name in required:
        if name not in found:
            columns = ", ".join(required) + (f", and optionally {', '.join(optional)}" if optional else "")
            raise EventFormatError(f"{name} is missing; allowed: columns {columns}")


def validate_events(frame: pl.DataFrame, info: DatasetInfo) -> pl.DataFrame:
    """Return the events in `EVENT_SCHEMA`, ordered by `ORDER` with ties as they were.

    Optional columns are filled in, others left out. User ids may be numbers, which become their decimal text;
    timestamps may be dates and times, taken for UTC where they have no zone, and lose fractions of a second.

    Raises `EventFormatError` if a column is missing or of another type, or a row breaks a rule of the format.
    Rows are numbered from 1.
    """
    require_columns(frame.columns, REQUIRED, ("surface", "feedview_id"))
    if frame.is_empty():
        raise EventFormatError("events is empty; allowed: at least one row")
    if frame["timestamp"].dtype in (pl.Datetime, pl.Date):
        frame = frame.with_columns(pl.col("timestamp").dt.epoch("s"))
    events = typed(frame, EVENT_SCHEMA, surface=0)
    for name in (*REQUIRED, "surface"):
        refuse(events, name, pl.col(name).is_null(), "a value in every row")
    _check_ranges(events, info)
    _check_rows_of_a_user(events)
    return events.sort(ORDER, maintain_order=True)


def validate_items(frame: pl.DataFrame) -> pl.DataFrame:
    """Return the items in `ITEM_SCHEMA`, ordered by id.

    A title that is missing is null, attributes and content that are missing are empty lists. Attributes are a
    set: ascending, each once.

    Raises `EventFormatError` if `item_id` is missing, null, negative or repeated, an attribute is out of
    range or an item has too many, content vectors differ in width, are too wide or hold a number that is not
    finite or too large, or a column has another type.
    """
    require_columns(frame.columns, ("item_id",), ("title", "attributes", "content"))
    items = typed(frame, ITEM_SCHEMA).with_columns(pl.col("attributes", "content").fill_null([]))
    item_id, element = pl.col("item_id"), pl.element()
    refuse(items, "item_id", item_id.is_null(), "a value in every row")
    refuse(items, "item_id", item_id < 0, "0 or more")
    refuse(items, "item_id", ~item_id.is_first_distinct(), "every item once")
    attributes = f"numbers from 0 to {LARGEST_ATTRIBUTE}"
    _refuse_element(items, "attributes", ~element.is_between(0, LARGEST_ATTRIBUTE), attributes)
    _refuse_element(items, "content", ~element.is_finite(), "finite numbers")
    content = f"-{LARGEST_CONTENT} to {LARGEST_CONTENT}; scale it"
    _refuse_element(items, "content", element.abs() > LARGEST_CONTENT, content)
    _check_lengths(items)
    return items.with_columns(pl.col("attributes").list.unique().list.sort()).sort("item_id")


def _check_lengths(items: pl.DataFrame) -> None:
    count = pl.col("number of attributes")
    counts = items.select(pl.col("attributes").list.n_unique().alias("number of attributes"))
    refuse(counts, "number of attributes", count > MOST_ATTRIBUTES, f"0 to {MOST_ATTRIBUTES}")
    width = pl.col("width of content")
    widths = items.select(pl.col("content").list.len().alias("width of content"))
    refuse(widths, "width of content", width > WIDEST_CONTENT, f"0 to {WIDEST_CONTENT}")
    first_width = width.filter(width > 0).first()
    allowed = f"{widths.select(first_width).item()}, as in the first row that has content"
    refuse(widths, "width of content", (width > 0) & (width != first_width), allowed)


def typed(frame: pl.DataFrame, schema: pl.Schema, **defaults: Any) -> pl.DataFrame:
    """Return the columns of `schema`; one that is missing has its default in every row, else null.

    Raises `EventFormatError` for a column of a type, or with a value, that does not become the schema's.
    """
    missing = {
        name: pl.lit(defaults.get(name), dtype) for name, dtype in schema.items() if name not in frame.columns
    }
    complete = frame.with_columns(**missing)
    return pl.DataFrame([_typed_column(complete[name], dtype) for name, dtype in schema.items()])


def _typed_column(column: pl.Series, dtype: pl.DataType) -> pl.Series:
    """The column as `dtype`.

    CSV knows no types, so text of a number is a number, and text of numbers with spaces between a list.
    Categories and bytes are text of another form, and a user's or an item's number is its name.
    """
    column = _text(column)
    if isinstance(dtype, pl.List):
        return _typed_lists(column, dtype)
    if column.dtype in (dtype, pl.Null) or _is_convertible(column.dtype, dtype):
        typed = column.cast(dtype, strict=False)
        refuse(column.to_frame(), column.name, typed.is_null() & column.is_not_null(), f"{dtype}")
        return typed
    allowed = f"{dtype} or integers" if dtype == pl.String else f"{dtype}"
    raise EventFormatError(f"{column.name} has type {column.dtype}; allowed: {allowed}")


def _text(column: pl.Series) -> pl.Series:
    """A column of categories or of bytes as text, any other as it is."""
    if column.dtype not in (pl.Categorical, pl.Enum, pl.Binary):
        return column
    try:
        return column.cast(pl.String)
    except pl.exceptions.ComputeError:
        broken = [value is not None and value.decode(errors="ignore").encode() != value for value in column]
        refuse(column.to_frame(), column.name, pl.Series(broken), "text in UTF-8")
        raise


def _is_convertible(found: pl.DataType, dtype: pl.DataType) -> bool:
    if dtype.is_float():
        return found.is_numeric() or found == pl.String
    whole = isinstance(found, pl.Decimal) and found.scale == 0
    return found.is_integer() or (dtype.is_integer() and (found == pl.String or whole))


def _typed_lists(column: pl.Series, dtype: pl.List) -> pl.Series:
    lists = column.str.extract_all(r"\S+") if column.dtype == pl.String else column
    element = lists.dtype.inner if isinstance(lists.dtype, pl.List | pl.Array) else lists.dtype
    convertible = element.is_integer() or (dtype.inner.is_float() and element.is_numeric())
    is_list = lists.dtype == pl.Null or isinstance(lists.dtype, pl.List | pl.Array)
    if not is_list or not (convertible or element in (pl.String, pl.Null)):
        raise EventFormatError(f"{column.name} has type {column.dtype}; allowed: {dtype}")
    typed = lists.cast(dtype, strict=False)
    refuse(column.to_frame(), column.name, typed.list.drop_nulls().list.len() < typed.list.len(), f"{dtype}")
    return typed


def _check_ranges(events: pl.DataFrame, info: DatasetInfo) -> None:
    largest_mask = 2 ** len(info.actions) - 1
    last_surface = len(info.surfaces) - 1
    user_bytes = pl.col("user_id").str.len_bytes()
    refuse(events, "user_id", ~user_bytes.is_between(1, LONGEST_USER_ID), f"1 to {LONGEST_USER_ID} bytes")
    refuse(events, "item_id", pl.col("item_id") < 0, "0 or more")
    refuse(events, "actions", ~pl.col("actions").is_between(0, largest_mask), f"0 to {largest_mask}")
    refuse(events, "surface", ~pl.col("surface").is_between(0, last_surface), f"0 to {last_surface}")
    in_time = pl.col("timestamp").is_between(0, LATEST_TIMESTAMP)
    refuse(events, "timestamp", ~in_time, f"unix seconds, 0 to {LATEST_TIMESTAMP}")


def _check_rows_of_a_user(events: pl.DataFrame) -> None:
    first = pl.struct("user_id", "item_id", "timestamp").is_first_distinct()
    refuse(events, "item_id", ~first, "once per user_id and timestamp")
    earlier = pl.col("timestamp") < pl.col("timestamp").shift(1).over("user_id")
    refuse(events, "timestamp", earlier, "ascending within a user_id")
    beyond = pl.col("feedview_id").cum_count().over("user_id", "feedview_id") > MOST_SHOWN_TOGETHER
    refuse(events, "feedview_id", beyond, f"at most {MOST_SHOWN_TOGETHER} rows of a user with one number")


def _refuse_element(frame: pl.DataFrame, column: str, wrong: pl.Expr, allowed: str) -> None:
    first_wrong = pl.col(column).list.eval(pl.element().filter(wrong)).list.first()
    refuse(frame.select(first_wrong), column, pl.col(column).is_not_null(), allowed)


def refuse(frame: pl.DataFrame, column: str, wrong: pl.Expr | pl.Series, allowed: str) -> None:
    """Raise `EventFormatError` with the first row where `wrong` holds, if there is one."""
    found = frame.with_row_index("row", offset=1).filter(wrong).select("row", column).head(1)
    for row, value in found.iter_rows():
        shown = "null" if value is None else repr(value)
        if len(shown) > SHOWN_CHARACTERS:
            shown = f"{shown[:SHOWN_CHARACTERS]}…"
        raise EventFormatError(f"{column} is {shown} in row {row}; allowed: {allowed}")
