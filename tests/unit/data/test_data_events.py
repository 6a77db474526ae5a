"""The event format refuses every kind of broken row in one line that says where and what."""

from datetime import datetime, timedelta, timezone
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal
from pydantic import ValidationError

from unipinrec.data.events import (
    ITEM_SCHEMA,
    DatasetInfo,
    EventFormatError,
    validate_events,
    validate_items,
)

INFO = DatasetInfo(
    name="shop",
    actions=("click", "save"),
    surfaces=("home", "search"),
    sampled_impressions=False,
    utility_weights=(1.0, 2.0),
)
UNIX_SECONDS = "allowed: unix seconds, 0 to 99999999999"
ROWS = {
    "user_id": ["b", "a", "a", "a"],
    "item_id": [7, 9, 8, 9],
    "actions": [0, 1, 3, 2],
    "surface": [1, 0, 0, 1],
    "timestamp": [50, 10, 10, 20],
    "feedview_id": [1, 1, None, 2],
}


def changed(column: str, value: object, row: int = 3) -> pl.DataFrame:
    values = list(ROWS[column])
    values[row - 1] = value
    return pl.DataFrame({**ROWS, column: values}, strict=False)


def test_valid_events_are_ordered_by_user_and_time_and_ties_stay_as_they_were() -> None:
    expected = pl.DataFrame(
        {
            "user_id": ["a", "a", "a", "b"],
            "item_id": [9, 8, 9, 7],
            "actions": [1, 3, 2, 0],
            "surface": pl.Series([0, 0, 1, 1], dtype=pl.Int32),
            "timestamp": [10, 10, 20, 50],
            "feedview_id": [1, None, 2, 1],
        }
    )
    assert_frame_equal(validate_events(pl.DataFrame(ROWS), INFO), expected)


def test_text_of_integers_and_narrow_integers_are_integers() -> None:
    text = pl.DataFrame(ROWS).with_columns(pl.all().cast(pl.String))
    narrow = pl.DataFrame(ROWS).with_columns(pl.col("item_id", "actions").cast(pl.UInt8))
    assert_frame_equal(validate_events(text, INFO), validate_events(narrow, INFO))


def test_optional_columns_are_filled_and_foreign_ones_left_out() -> None:
    frame = pl.DataFrame(ROWS).drop("surface", "feedview_id").with_columns(price=1.5)
    events = validate_events(frame, INFO)
    assert events.columns == ["user_id", "item_id", "actions", "surface", "timestamp", "feedview_id"]
    assert events["surface"].to_list() == [0, 0, 0, 0]
    assert events["feedview_id"].to_list() == [None] * 4


@pytest.mark.parametrize(
    ("column", "value", "row", "message"),
    [
        ("actions", 4, 2, "actions is 4 in row 2; allowed: 0 to 3"),
        ("actions", -1, 3, "actions is -1 in row 3; allowed: 0 to 3"),
        ("actions", None, 4, "actions is null in row 4; allowed: a value in every row"),
        ("surface", 2, 1, "surface is 2 in row 1; allowed: 0 to 1"),
        ("surface", None, 1, "surface is null in row 1; allowed: a value in every row"),
        ("surface", 2**40, 1, f"surface is {2**40} in row 1; allowed: Int32"),
        ("item_id", -5, 1, "item_id is -5 in row 1; allowed: 0 or more"),
        ("item_id", 9, 3, "item_id is 9 in row 3; allowed: once per user_id and timestamp"),
        ("user_id", "", 1, "user_id is '' in row 1; allowed: 1 to 256 bytes"),
        ("user_id", "é" * 129, 1, f"user_id is '{'é' * 79}… in row 1; allowed: 1 to 256 bytes"),
        ("timestamp", -1, 1, f"timestamp is -1 in row 1; {UNIX_SECONDS}"),
        ("timestamp", 893286638000, 1, f"timestamp is 893286638000 in row 1; {UNIX_SECONDS}"),
        ("timestamp", 9, 4, "timestamp is 9 in row 4; allowed: ascending within a user_id"),
    ],
)  # fmt: skip
def test_a_broken_row_is_named(column: str, value: object, row: int, message: str) -> None:
    with pytest.raises(EventFormatError) as error:
        validate_events(changed(column, value, row), INFO)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("user_id", pl.Series(ROWS["user_id"], dtype=pl.Categorical)),
        ("user_id", pl.Series(ROWS["user_id"], dtype=pl.Enum(["b", "a"]))),
        ("user_id", pl.Series([user.encode() for user in ROWS["user_id"]])),
        ("item_id", pl.Series([b"7", b"9", b"8", b"9"])),
        ("item_id", pl.Series(["7", "9", "8", "9"], dtype=pl.Categorical)),
        ("item_id", pl.Series(ROWS["item_id"], dtype=pl.Decimal(38, 0))),
        ("timestamp", pl.Series(ROWS["timestamp"], dtype=pl.Int64) * 1000 + 999),
        ("timestamp", pl.Series(ROWS["timestamp"], dtype=pl.Int64) * 1_000_000),
        ("timestamp", pl.Series(ROWS["timestamp"], dtype=pl.Int64) * 1_000_000_000),
    ],
    ids=["categories", "enum", "bytes", "item bytes", "item categories", "decimals", "ms", "us", "ns"],
)
def test_other_forms_of_the_same_values_are_read(
    request: pytest.FixtureRequest, column: str, values: pl.Series
) -> None:
    if column == "timestamp":
        values = values.cast(pl.Datetime(request.node.callspec.id))
    frame = pl.DataFrame(ROWS).with_columns(values.alias(column))
    assert_frame_equal(validate_events(frame, INFO), validate_events(pl.DataFrame(ROWS), INFO))


def test_a_time_with_a_zone_is_unix_time_and_a_day_its_midnight() -> None:
    noon = datetime(2023, 11, 14, 12, tzinfo=timezone(timedelta(hours=2)))
    rows = {"user_id": ["a"], "item_id": [1], "actions": [1], "timestamp": [noon]}
    assert validate_events(pl.DataFrame(rows), INFO)["timestamp"].to_list() == [1_699_956_000]
    rows["timestamp"] = [noon.date()]
    assert validate_events(pl.DataFrame(rows), INFO)["timestamp"].to_list() == [1_699_920_000]


def test_numbers_of_users_are_their_names() -> None:
    frame = pl.DataFrame(ROWS).with_columns(user_id=pl.Series([2, 10, 10, 10], dtype=pl.UInt64))
    assert validate_events(frame, INFO)["user_id"].to_list() == ["10", "10", "10", "2"]


def test_bytes_that_are_no_text_are_named() -> None:
    frame = pl.DataFrame(ROWS).with_columns(user_id=pl.Series([b"b", None, b"\xff", b"a"]))
    with pytest.raises(EventFormatError) as error:
        validate_events(frame, INFO)
    assert str(error.value) == "user_id is b'\\xff' in row 3; allowed: text in UTF-8"


def test_a_slate_is_bounded() -> None:
    rows = pl.DataFrame(
        {"user_id": "a", "item_id": range(1025), "actions": 0, "timestamp": 5, "feedview_id": 3}
    )
    assert len(validate_events(rows.head(1024), INFO)) == 1024
    with pytest.raises(EventFormatError) as error:
        validate_events(rows, INFO)
    assert str(error.value) == (
        "feedview_id is 3 in row 1025; allowed: at most 1024 rows of a user with one number"
    )
    assert len(validate_events(rows.with_columns(feedview_id=pl.lit(None)), INFO)) == 1025


def test_text_that_is_no_integer_is_named() -> None:
    frame = pl.DataFrame(ROWS).with_columns(timestamp=pl.Series(["50", "10", "soon", "20"]))
    with pytest.raises(EventFormatError, match=r"^timestamp is 'soon' in row 3; allowed: Int64$"):
        validate_events(frame, INFO)


@pytest.mark.parametrize(
    ("column", "dtype", "message"),
    [
        ("item_id", pl.Float64, "item_id has type Float64; allowed: Int64"),
        ("timestamp", pl.Time, "timestamp has type Time; allowed: Int64"),
    ],
)
def test_a_wrong_type_is_named(column: str, dtype: pl.DataType, message: str) -> None:
    with pytest.raises(EventFormatError) as error:
        validate_events(pl.DataFrame(ROWS).with_columns(pl.col(column).cast(dtype)), INFO)
    assert str(error.value) == message


@pytest.mark.parametrize("column", ["user_id", "item_id", "actions", "timestamp"])
def test_a_missing_column_is_named(column: str) -> None:
    with pytest.raises(EventFormatError, match=f"^{column} is missing; allowed: columns user_id, item_id"):
        validate_events(pl.DataFrame(ROWS).drop(column), INFO)


def test_a_table_without_rows_is_refused() -> None:
    with pytest.raises(EventFormatError, match=r"^events is empty; allowed: at least one row$"):
        validate_events(pl.DataFrame(ROWS).head(0), INFO)


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (
            {"title": ["x"]},
            "item_id is missing; allowed: columns item_id, and optionally title, attributes, content",
        ),
        ({"item_id": [1, None]}, "item_id is null in row 2; allowed: a value in every row"),
        ({"item_id": [-1]}, "item_id is -1 in row 1; allowed: 0 or more"),
        ({"item_id": [4, 3, 4]}, "item_id is 4 in row 3; allowed: every item once"),
        ({"item_id": [1], "title": [2.5]}, "title has type Float64; allowed: String or integers"),
        ({"item_id": [1], "attributes": [3]}, "attributes has type Int64; allowed: List(Int64)"),
        ({"item_id": [1], "attributes": [[0.5]]}, "attributes has type List(Float64); allowed: List(Int64)"),
        (
            {"item_id": [1, 2], "attributes": ["4 5", "4 red"]},
            "attributes is '4 red' in row 2; allowed: List(Int64)",
        ),
        (
            {"item_id": [1, 2], "attributes": [[0, 2**31], [4, 2**31 + 1, -1]]},
            "attributes is 2147483649 in row 2; allowed: numbers from 0 to 2147483648",
        ),
        (
            {"item_id": [1], "attributes": [{"id": 3}]},
            "attributes has type Struct({'id': Int64}); allowed: List(Int64)",
        ),
        (
            {"item_id": [1], "attributes": [[{"id": 3}]]},
            "attributes has type List(Struct({'id': Int64})); allowed: List(Int64)",
        ),
        (
            {"item_id": [1], "content": [[[0.5]]]},
            "content has type List(List(Float64)); allowed: List(Float32)",
        ),
        (
            {"item_id": [1, 2], "attributes": [[], list(range(257))]},
            "number of attributes is 257 in row 2; allowed: 0 to 256",
        ),
        (
            {"item_id": [1], "content": [[0.0] * 8193]},
            "width of content is 8193 in row 1; allowed: 0 to 8192",
        ),
        (
            {"item_id": [1, 2], "content": [[1e6, -1e6], [0.5, -1e25]]},
            "content is -9.999999562023526e+24 in row 2; allowed: -1000000 to 1000000; scale it",
        ),
        ({"item_id": [1], "content": [0.5]}, "content has type Float64; allowed: List(Float32)"),
        ({"item_id": [1], "content": ["0.5 x"]}, "content is '0.5 x' in row 1; allowed: List(Float32)"),
        (
            {"item_id": [1, 2], "content": [[0.5, 1.0], [0.5, None]]},
            "content is [0.5, None] in row 2; allowed: List(Float32)",
        ),
        (
            {"item_id": [1, 2], "content": [None, [0.5, float("nan"), 1e300]]},
            "content is nan in row 2; allowed: finite numbers",
        ),
        ({"item_id": [1], "content": [[1e300]]}, "content is inf in row 1; allowed: finite numbers"),
        (
            {"item_id": [1, 2, 3], "content": [[], [0.5, 1.0], [0.5]]},
            "width of content is 1 in row 3; allowed: 2, as in the first row that has content",
        ),
    ],
)
def test_broken_items_are_refused(items: dict[str, list[object]], message: str) -> None:
    with pytest.raises(EventFormatError) as error:
        validate_items(pl.DataFrame(items))
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("attributes", "content"),
    [
        ([[9, 2, 9], None, []], [None, [0.5, 2.0], []]),
        (["9 2  9", None, " "], [None, "0.5 2", ""]),
        (pl.Series([[9, 2, 9], None, []], dtype=pl.List(pl.UInt8)), [None, [0.5, 2.0], []]),
    ],
    ids=["lists", "text", "narrow integers"],
)
def test_attributes_are_a_set_and_what_is_missing_is_empty(attributes: Any, content: Any) -> None:
    items = validate_items(pl.DataFrame({"item_id": [7, 5, 6], "attributes": attributes, "content": content}))
    assert items.schema == ITEM_SCHEMA
    assert items.rows() == [(5, None, [], [0.5, 2.0]), (6, None, [], []), (7, None, [2, 9], [])]


def test_all_actions_are_positive_unless_some_are_named() -> None:
    assert INFO.positive_actions == ("click", "save")
    named = DatasetInfo.model_validate({**INFO.model_dump(), "positive_actions": ("save",)})
    assert named.positive_actions == ("save",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"actions": ("click", "click")}, "actions is click, click; allowed: every name once"),
        ({"surfaces": ("home", "home")}, "surfaces is home, home; allowed: every name once"),
        ({"utility_weights": (1.0,)}, r"utility_weights is \[1.0\]; allowed: 2 finite numbers"),
        ({"utility_weights": (1.0, -1.0)}, r"utility_weights is \[1.0, -1.0\]; allowed: 2 finite numbers"),
        ({"utility_weights": (1.0, float("nan"))}, r"utility_weights is \[1.0, nan\]; allowed: 2 finite"),
        ({"positive_actions": ()}, "positive_actions"),
        (
            {"positive_actions": ("save", "buy")},
            "positive_actions is save, buy; allowed: some of click, save",
        ),
        ({"positive_actions": ("save", "save")}, "positive_actions is save, save; allowed: every name once"),
        ({"name": "../shop"}, "name"),
        ({"actions": ()}, "actions"),
    ],
)
def test_a_dataset_that_contradicts_itself_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DatasetInfo.model_validate({**INFO.model_dump(), **change})
