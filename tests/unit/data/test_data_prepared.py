"""A prepared folder is whole, verified, and never written over."""

import hashlib
from pathlib import Path

import polars as pl
import pytest

from unipinrec.data.events import DatasetInfo, EventFormatError
from unipinrec.data.prepared import PreparedDatasetError, read_prepared, write_prepared
from unipinrec.data.summary import summarize

INFO = DatasetInfo(
    name="shop", actions=("click", "save"), sampled_impressions=False, utility_weights=(1.0, 1.0)
)
EVENTS = pl.DataFrame(
    {
        "user_id": ["a", "a", "a", "a", "b"],
        "item_id": [5, 6, 7, 8, 5],
        "actions": [1, 3, 0, 1, 0],
        "timestamp": [1, 1, 1, 2, 3],
        "feedview_id": [1, 1, 1, None, 1],
    }
)


def test_items_of_events_join_the_catalogue(tmp_path: Path) -> None:
    items = pl.DataFrame({"item_id": [9, 6], "title": ["Unsold lamp", "Chair"], "attributes": [[], [3, 1]]})
    write_prepared(tmp_path / "shop", EVENTS, items, INFO)
    read = read_prepared(tmp_path / "shop")
    assert read.items.rows() == [
        (5, "5", [], []),
        (6, "Chair", [1, 3], []),
        (7, "7", [], []),
        (8, "8", [], []),
        (9, "Unsold lamp", [], []),
    ]
    assert len(read.events) == 5
    assert read.info.actions == ("click", "save")


def test_a_refused_table_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(EventFormatError):
        write_prepared(tmp_path / "shop", EVENTS.with_columns(actions=9), None, INFO)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_not_written_over(tmp_path: Path) -> None:
    with pytest.raises(PreparedDatasetError, match=r"which exists; allowed: a new folder$"):
        write_prepared(tmp_path, EVENTS, None, INFO)


@pytest.mark.parametrize("name", ["events.parquet", "items.parquet"])
def test_an_altered_table_is_refused(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "shop"
    write_prepared(folder, EVENTS, None, INFO)
    content = bytearray((folder / name).read_bytes())
    content[20] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(
        PreparedDatasetError, match=f"sha256 of {name} is [0-9a-f]{{64}}; allowed: [0-9a-f]{{64}}$"
    ):
        read_prepared(folder)


@pytest.mark.parametrize("name", ["events.parquet", "items.parquet", "dataset.json"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "shop"
    write_prepared(folder, EVENTS, None, INFO)
    (folder / name).unlink()
    with pytest.raises(PreparedDatasetError, match=f"has no {name}; allowed: a folder that "):
        read_prepared(folder)


def test_an_unreadable_description_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "shop"
    write_prepared(folder, EVENTS, None, INFO)
    (folder / "dataset.json").write_text("{}")
    with pytest.raises(PreparedDatasetError, match=r"dataset\.json is unreadable"):
        read_prepared(folder)


def test_a_folder_out_of_range_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "shop"
    info = write_prepared(folder, EVENTS, None, INFO).info
    pl.DataFrame({"item_id": [5], "content": [[1e25]]}).write_parquet(folder / "items.parquet")
    digest = hashlib.sha256((folder / "items.parquet").read_bytes()).hexdigest()
    hashes = info.sha256 | {"items.parquet": digest}
    (folder / "dataset.json").write_text(info.model_copy(update={"sha256": hashes}).model_dump_json())
    with pytest.raises(PreparedDatasetError, match=f"^dataset {folder}: content is .* in row 1; allowed: "):
        read_prepared(folder)


def test_a_folder_without_attributes_and_content_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "shop"
    info = write_prepared(folder, EVENTS, None, INFO).info
    pl.read_parquet(folder / "items.parquet").select("item_id", "title").write_parquet(
        folder / "items.parquet"
    )
    digest = hashlib.sha256((folder / "items.parquet").read_bytes()).hexdigest()
    hashes = info.sha256 | {"items.parquet": digest}
    earlier = info.model_copy(update={"sha256": hashes}).model_dump_json(exclude={"positive_actions"})
    (folder / "dataset.json").write_text(earlier)
    read = read_prepared(folder)
    assert read.items.row(0) == (5, "5", [], [])
    assert read.info.positive_actions == ("click", "save")


def test_summary_counts_by_hand(tmp_path: Path) -> None:
    items = pl.DataFrame({"item_id": [5, 6], "attributes": [[3], [8, 3]], "content": [[0.5, 1.0], []]})
    summary = summarize(write_prepared(tmp_path / "shop", EVENTS, items, INFO))
    percentiles = (10, 25, 50, 75, 90, 99)
    sizes, lengths = (1, 1, 1, 3, 3, 3), (0, 0, 0, 3, 3, 3)
    assert summary == {
        "users": 2,
        "items": 4,
        "attributes": 2,
        "content width": 2,
        "events": 5,
        "impressions": 2,
        "feedviews": 2,
        "rate of click": 3 / 5,
        "rate of save": 1 / 5,
        **{f"feedview size, percentile {p}": size for p, size in zip(percentiles, sizes, strict=True)},
        **{f"history, percentile {p}": length for p, length in zip(percentiles, lengths, strict=True)},
    }
