"""EB-NeRD's slates become feedviews, and its histories clicks before them."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from unipinrec.data.adapters.ebnerd import prepare_ebnerd
from unipinrec.data.events import EventFormatError
from unipinrec.data.interactions import InteractionDataset
from unipinrec.data.prepared import PreparedDataset, read_prepared

MORNING = datetime(2023, 2, 23, 7, 0)
T = 1_677_135_600
BEHAVIORS: dict[str, Any] = {
    "impression_id": [9, 8, 5],
    "user_id": [2, 1, 1],
    "impression_time": [MORNING, MORNING + timedelta(seconds=5), MORNING],
    "article_ids_inview": [[10, 30], [40, 10, 20], [30, 20]],
    "article_ids_clicked": [[], [20, 10], [30]],
    "next_read_time": [None, 30.0, 29.5],
}
HISTORY: dict[str, Any] = {
    "user_id": [1, 3],
    "impression_time_fixed": [[MORNING - timedelta(hours=2), MORNING - timedelta(hours=1)], [MORNING]],
    "article_id_fixed": [[50, 10], [50]],
    "read_time_fixed": [[30.0, 3.0], [None]],
}
ARTICLES: dict[str, Any] = {
    "article_id": [10, 20, 60],
    "title": ["Sol", "Regn", "Sne"],
    "category": [118, 140, 118],
    "subcategory": [[7, 118], [], None],
    "topics": [["Vejr"], ["Vejr", "Sport"], []],
    "article_type": ["article_default", None, "article_default"],
}


def write(folder: Path, **changes: dict[str, Any]) -> None:
    folder.mkdir(exist_ok=True)
    ids = {"user_id": pl.UInt32}
    pl.DataFrame(BEHAVIORS | changes.get("behaviors", {}), schema_overrides=ids).write_parquet(
        folder / "behaviors.parquet"
    )
    pl.DataFrame(HISTORY | changes.get("history", {}), schema_overrides=ids).write_parquet(
        folder / "history.parquet"
    )


def prepare(path: Path, out: Path) -> PreparedDataset:
    prepare_ebnerd(path, out, lambda _: None)
    return read_prepared(out)


def test_slates_follow_the_clicks_of_the_history(tmp_path: Path) -> None:
    write(tmp_path)
    dataset = prepare(tmp_path, tmp_path / "out")
    # click 1, read 2. The slate of 30 s was read, but only its first clicked article, 20.
    assert dataset.events.select("user_id", "item_id", "actions", "timestamp", "feedview_id").rows() == [
        ("1", 50, 3, T - 7200, None),
        ("1", 10, 1, T - 3600, None),
        ("1", 30, 1, T, 2),
        ("1", 20, 0, T, 2),
        ("1", 40, 0, T + 5, 1),
        ("1", 10, 1, T + 5, 1),
        ("1", 20, 3, T + 5, 1),
        ("2", 10, 0, T, 0),
        ("2", 30, 0, T, 0),
        ("3", 50, 1, T, None),
    ]
    assert dataset.info.actions == ("click", "read")
    assert not dataset.info.sampled_impressions
    feedviews = InteractionDataset.load(tmp_path / "out").feedviews
    assert feedviews.offset_U1.tolist() == [0, 2, 3, 3]
    assert feedviews.start_F.tolist() == [2, 3, 0]


def test_slates_of_one_second_share_an_item_with_its_actions_joined(tmp_path: Path) -> None:
    write(tmp_path, behaviors={"user_id": [1, 1, 1], "impression_time": [MORNING] * 3})
    events = prepare(tmp_path, tmp_path / "out").events
    slates = events.filter(pl.col("feedview_id").is_not_null())
    assert slates.select("item_id", "actions", "feedview_id").rows() == [
        (10, 1, 0), (30, 1, 0), (40, 0, 1), (20, 3, 1),
    ]  # fmt: skip


def test_a_click_on_an_article_out_of_view_joins_the_slate(tmp_path: Path) -> None:
    write(tmp_path, behaviors={"article_ids_clicked": [[70], [], []]})
    events = prepare(tmp_path, tmp_path / "out").events
    assert events.filter(user_id="2").select("item_id", "actions").rows() == [(10, 0), (30, 0), (70, 1)]


@pytest.mark.parametrize("folder", [".", ".."])
def test_articles_have_titles_and_attributes(tmp_path: Path, folder: str) -> None:
    split = tmp_path / "train"
    write(split)
    pl.DataFrame(ARTICLES, schema_overrides={"article_id": pl.Int32}).write_parquet(
        split / folder / "articles.parquet"
    )
    items = prepare(tmp_path, tmp_path / "out").items
    # 0 article_type=article_default, 1 category=118, 2 category=140, 3 subcategory=118, 4 subcategory=7,
    # 5 topic=Sport, 6 topic=Vejr. Article 60 was never shown.
    assert items.select("item_id", "title", "attributes").rows() == [
        (10, "Sol", [0, 1, 3, 4, 6]),
        (20, "Regn", [2, 5, 6]),
        (30, "30", []),
        (40, "40", []),
        (50, "50", []),
        (60, "Sne", [0, 1]),
    ]


def test_several_splits_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "train")
    write(tmp_path / "validation")
    with pytest.raises(EventFormatError, match=r"2 files behaviors\.parquet \(train/.*, validation/"):
        prepare(tmp_path, tmp_path / "out")


@pytest.mark.parametrize(
    ("table", "change", "message"),
    [
        ("behaviors", {"impression_time": ["now"] * 3}, "file {}/behaviors.parquet is unreadable: "),
        ("history", {"article_id_fixed": [[1], [2]]}, "file {}/history.parquet is unreadable: "),
    ],
)
def test_a_column_of_another_type_or_length_is_named(
    tmp_path: Path, table: str, change: dict[str, Any], message: str
) -> None:
    write(tmp_path, **{table: change})
    with pytest.raises(EventFormatError) as error:
        prepare(tmp_path, tmp_path / "out")
    assert str(error.value).startswith(message.format(tmp_path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "column"),
    [("behaviors.parquet", "article_ids_inview"), ("history.parquet", "read_time_fixed")],
)
def test_a_missing_column_is_named(tmp_path: Path, name: str, column: str) -> None:
    write(tmp_path)
    pl.read_parquet(tmp_path / name).drop(column).write_parquet(tmp_path / name)
    with pytest.raises(EventFormatError, match=rf"{name}: {column} is missing; allowed: columns user_id, "):
        prepare(tmp_path, tmp_path / "out")


def test_a_file_that_is_no_parquet_is_named(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "history.parquet").write_text("user_id\n1\n")
    with pytest.raises(EventFormatError, match=r"history\.parquet is unreadable: "):
        prepare(tmp_path, tmp_path / "out")
