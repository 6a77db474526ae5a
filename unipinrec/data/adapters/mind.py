"""MIND: impression slates of Microsoft News (Wu et al., 2020).

Times have no zone and are taken for UTC. The order of a slate's news carries no meaning: it was shuffled
before publication.
"""

import json
from pathlib import Path

import polars as pl

from unipinrec.data.adapters.attributes import attributes_of
from unipinrec.data.adapters.slates import slate_events
from unipinrec.data.adapters.sources import Download, one_file
from unipinrec.data.download import Report
from unipinrec.data.events import DatasetInfo, EventFormatError, refuse
from unipinrec.data.prepared import write_prepared
from unipinrec.data.tables import read_headless, reading

CLICK = 1
BEHAVIORS, NEWS = "behaviors.tsv", "news.tsv"
TIME_FORMAT = "%m/%d/%Y %I:%M:%S %p"
SHOWN_CHARACTERS = 60
"""Characters of a malformed value in its error message."""

INFO = DatasetInfo(
    name="mind",
    actions=("click",),
    tie_rule="slates as in the log; news of a slate as listed",
    sampled_impressions=False,
    utility_weights=(1.0,),
)
SMALL = Download(
    "recodatasets.z20.web.core.windows.net",
    "/newsrec/MINDsmall_train.zip",
    members=(f"*{BEHAVIORS}", f"*{NEWS}"),
)


def prepare_mind(path: Path, folder: Path, report: Report) -> None:
    """Write the prepared dataset `folder` from one split of MIND.

    `path` is a folder with `behaviors.tsv` and `news.tsv`.

    Raises `EventFormatError` if a file is missing or malformed, `PreparedDatasetError` if `folder` exists.
    """
    behaviors_file = one_file(path, BEHAVIORS)
    behaviors = _read_behaviors(behaviors_file)
    history, slates = _history_of(behaviors), _slates_of(behaviors)
    news = _read_news(one_file(behaviors_file.parent, NEWS))
    write_prepared(folder, slate_events(history, slates), news, INFO)
    report(f"{len(behaviors)} slates, {len(history)} earlier clicks written to {folder}")


def _read_behaviors(file: Path) -> pl.DataFrame:
    """`user_id`, `timestamp`, and lists: `history` of item ids, `impressions` of texts `N<id>-<clicked>`."""
    columns = ("impression_id", "user_id", "time", "history", "impressions")
    table = read_headless(file, "\t", columns)
    with reading(file):
        table = table.with_columns(pl.col("history", "impressions").str.strip_chars())
        time = pl.col("time").str.to_datetime(TIME_FORMAT, strict=False)
        checks = {
            "user_id": (pl.col("user_id").is_null(), "a value in every row"),
            "time": (time.is_null(), "times like 11/15/2019 8:55:22 AM"),
            "history": (~pl.col("history").str.contains(r"^(N\d+( N\d+)*)?$"), "N<number> N<number> …"),
            "impressions": (
                ~pl.col("impressions").fill_null("").str.contains(r"^N\d+-[01]( N\d+-[01])*$"),
                "N<number>-<0 or 1> …",
            ),
        }
        for name, (wrong, allowed) in checks.items():
            refuse(table, name, wrong, allowed)
        ids = pl.col("history").str.extract_all(r"\d+").cast(pl.List(pl.Int64)).fill_null([])
        return table.select(
            "user_id",
            timestamp=time.dt.epoch("s"),
            history=ids,
            impressions=pl.col("impressions").str.split(" "),
        )


def _history_of(behaviors: pl.DataFrame) -> pl.DataFrame:
    """The clicks listed with each user's first slate, one second apart, the last a second before it."""
    first = behaviors.sort("timestamp", maintain_order=True).unique("user_id", keep="first")
    clicks = first.filter(pl.col("history").list.len() > 0).select(
        "user_id",
        item_id="history",
        timestamp=pl.int_ranges(pl.col("timestamp") - pl.col("history").list.len(), "timestamp"),
    )
    return clicks.explode("item_id", "timestamp").with_columns(actions=pl.lit(CLICK, pl.Int64))


def _slates_of(behaviors: pl.DataFrame) -> pl.DataFrame:
    """One row per news of each slate."""
    shown = behaviors.with_row_index("feedview_id").explode("impressions")
    parts = pl.col("impressions").str.extract_groups(r"N(\d+)-(\d)").struct
    return shown.select(
        "user_id",
        "timestamp",
        item_id=parts[0].cast(pl.Int64),
        actions=parts[1].cast(pl.Int64) * CLICK,
        feedview_id=pl.col("feedview_id").cast(pl.Int64),
    )


def _read_news(file: Path) -> pl.DataFrame:
    entities = ("title_entities", "abstract_entities")
    table = read_headless(
        file, "\t", ("id", "category", "subcategory", "title", "abstract", "url", *entities)
    )
    with reading(file):
        refuse(table, "id", ~pl.col("id").fill_null("").str.contains(r"^N\d+$"), "N<number>")
        news = table.with_columns(
            *(_entities(table[column]) for column in entities),
            item_id=pl.col("id").str.slice(1).cast(pl.Int64),
        )
        entity = pl.concat_list(*entities)
        attributes = attributes_of(
            news, {"category": "category", "subcategory": "subcategory", "entity": entity}
        )
        return news.select("item_id", "title").join(attributes, on="item_id", how="left")


def _entities(column: pl.Series) -> pl.Series:
    """The Wikidata entities that each row lists as JSON."""
    found = []
    for row, text in enumerate(column, 1):
        try:
            found.append([str(entity["WikidataId"]) for entity in json.loads(text or "[]")])
        except (KeyError, TypeError, ValueError) as error:
            shown = repr(text[:SHOWN_CHARACTERS])
            raise EventFormatError(
                f"{column.name} is {shown} in row {row}; allowed: JSON list of objects with WikidataId"
            ) from error
    return pl.Series(column.name, found, pl.List(pl.String))
