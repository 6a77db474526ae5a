"""EB-NeRD: impression slates and click histories of a Danish newspaper (Kruse et al., 2024).

Times have no zone and are taken for UTC. The order of a slate's articles carries no meaning: it was shuffled
before publication.
"""

from pathlib import Path

import polars as pl

from unipinrec.data.adapters.attributes import attributes_of
from unipinrec.data.adapters.slates import slate_events
from unipinrec.data.adapters.sources import Download, one_file
from unipinrec.data.download import Report
from unipinrec.data.events import DatasetInfo
from unipinrec.data.prepared import write_prepared
from unipinrec.data.tables import read_parquet, reading

CLICK, READ = 1, 2
READ_SECONDS = 30
"""A clicked article that is open for at least as long was read."""

BEHAVIORS, HISTORY, ARTICLES = "behaviors.parquet", "history.parquet", "articles.parquet"

INFO = DatasetInfo(
    name="ebnerd",
    actions=("click", "read"),
    tie_rule="clicks of the history first, then slates as in the log; articles of a slate as listed",
    sampled_impressions=False,
    utility_weights=(1.0, 1.0),
)
SMALL = Download(
    "ebnerd-dataset.s3.eu-west-1.amazonaws.com",
    "/ebnerd_small.zip",
    members=(f"*train/{BEHAVIORS}", f"*train/{HISTORY}", f"*{ARTICLES}"),
)


def prepare_ebnerd(path: Path, folder: Path, report: Report) -> None:
    """Write the prepared dataset `folder` from one split of EB-NeRD.

    `path` is a folder with `behaviors.parquet` and `history.parquet` of one split; `articles.parquet` is read
    where it lies beside them or in the folder above.

    Raises `EventFormatError` if a file is missing or malformed, `PreparedDatasetError` if `folder` exists.
    """
    behaviors = one_file(path, BEHAVIORS)
    split = behaviors.parent
    slates, history = _read_behaviors(behaviors), _read_history(one_file(split, HISTORY))
    articles = [each / ARTICLES for each in (split, split.parent) if (each / ARTICLES).is_file()]
    items = _read_articles(articles[0]) if articles else None
    write_prepared(folder, slate_events(history, slates), items, INFO)
    report(f"{slates['feedview_id'].n_unique()} slates, {len(history)} earlier clicks written to {folder}")


def _read_behaviors(file: Path) -> pl.DataFrame:
    """One row per article of each slate. `next_read_time` belongs to the first clicked article."""
    in_view, clicked, read_time = "article_ids_inview", "article_ids_clicked", "next_read_time"
    table = read_parquet(file, "user_id", "impression_time", in_view, clicked, read_time)
    with reading(file):
        item = pl.col("item_id")
        is_read = (item == pl.col(clicked).list.first()) & (pl.col(read_time) >= READ_SECONDS)
        return (
            table.with_row_index("feedview_id")
            .with_columns(item_id=pl.concat_list(in_view, clicked))
            .explode("item_id")
            .select(
                pl.col("user_id").cast(pl.String),
                item.cast(pl.Int64),
                actions=_mask(item.is_in(pl.col(clicked)), is_read),
                timestamp=pl.col("impression_time").dt.epoch("s"),
                feedview_id=pl.col("feedview_id").cast(pl.Int64),
            )
        )


def _read_history(file: Path) -> pl.DataFrame:
    """One row per earlier click; a user's lists must be of one length."""
    columns = ("article_id_fixed", "impression_time_fixed", "read_time_fixed")
    table = read_parquet(file, "user_id", *columns)
    with reading(file):
        clicks = table.select("user_id", *columns).explode(columns).drop_nulls("article_id_fixed")
        return clicks.select(
            pl.col("user_id").cast(pl.String),
            item_id=pl.col("article_id_fixed").cast(pl.Int64),
            actions=_mask(pl.lit(True), pl.col("read_time_fixed") >= READ_SECONDS),
            timestamp=pl.col("impression_time_fixed").dt.epoch("s"),
        )


def _read_articles(file: Path) -> pl.DataFrame:
    features = {
        "category": "category",
        "subcategory": "subcategory",
        "topic": "topics",
        "article_type": "article_type",
    }
    table = read_parquet(file, "article_id", "title", *features.values())
    with reading(file):
        articles = table.with_columns(item_id=pl.col("article_id").cast(pl.Int64))
        attributes = attributes_of(articles, features)
        return articles.select("item_id", "title").join(attributes, on="item_id", how="left")


def _mask(click: pl.Expr, read: pl.Expr) -> pl.Expr:
    """The bitmask; an unknown reading time is none."""
    return click * CLICK + read.fill_null(False) * READ
