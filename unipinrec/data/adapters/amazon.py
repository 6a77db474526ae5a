"""Amazon reviews: the sequences of S3-Rec, or review files of McAuley et al. (2014) or Hou et al. (2023).

A review of any rating is a purchase. Every event is its own feedview: sequence files have no times, and
reviews of 2014 only days, so that closeness in time says nothing about what was shown together.
"""

import gzip
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import polars as pl
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from unipinrec.data.adapters.sources import Download, one_file
from unipinrec.data.download import Report
from unipinrec.data.events import ITEM_SCHEMA, DatasetInfo, EventFormatError, name_from
from unipinrec.data.limits import LATEST_TIMESTAMP
from unipinrec.data.prepared import write_prepared
from unipinrec.data.tables import reading

PURCHASE = 1
INDEX_IS_TIME = "there are none: the place in the sequence is the timestamp"
FILE_ORDER = "reviews of one user and time keep the order of the file"
REVIEWS = ("reviews_*.json.gz", "reviews_*.json", "*.jsonl.gz", "*.jsonl")

Id = Annotated[str, Field(min_length=1)]


class Review2014(BaseModel):
    """A purchase as a line of the release of 2014 has it; the time is a day."""

    user: Id = Field(alias="reviewerID")
    asin: Id
    time_s: int = Field(alias="unixReviewTime", ge=0, le=LATEST_TIMESTAMP)

    @property
    def time_ms(self) -> int:
        """Unix milliseconds."""
        return self.time_s * 1000


class Review2023(BaseModel):
    """A purchase as a line of the release of 2023 has it; variants of a product are one item."""

    user: Id = Field(alias="user_id")
    asin: Id = Field(alias="parent_asin")
    time_ms: int = Field(alias="timestamp", ge=0, le=1000 * LATEST_TIMESTAMP)


REVIEW: TypeAdapter[Review2014 | Review2023] = TypeAdapter(Review2014 | Review2023)
FIELDS = "texts reviewerID and asin and the number unixReviewTime, or user_id, parent_asin and timestamp"
ATTRIBUTES_OF_ITEM = TypeAdapter(dict[int, list[int]])


def downloads(category: str) -> tuple[Download, ...]:
    """Return S3-Rec's files of a category: Beauty, Sports_and_Outdoors or Toys_and_Games."""
    folder = "/RUCAIBox/CIKM2020-S3Rec/master/data"
    names = (f"{category}.txt", f"{category}_item2attributes.json")
    return tuple(Download("raw.githubusercontent.com", f"{folder}/{name}") for name in names)


def prepare_amazon(path: Path, folder: Path, report: Report) -> None:
    """Write the prepared dataset `folder` from a sequence file or a review file.

    `path` is the file, or a folder that holds one. Attributes come from `<name>_item2attributes.json` beside
    a sequence file, where there is one.

    Raises `EventFormatError` if a file is missing or malformed, `PreparedDatasetError` if `folder` exists.
    """
    file = one_file(path, "*.txt", *REVIEWS)
    sequences = file.suffix.lower() == ".txt"
    events, items = _read_sequences(file) if sequences else _read_reviews(file)
    info = DatasetInfo(
        name=name_from(f"amazon-{_category_of(file)}"),
        actions=("purchase",),
        tie_rule=INDEX_IS_TIME if sequences else FILE_ORDER,
        sampled_impressions=True,
        utility_weights=(1.0,),
    )
    write_prepared(folder, events.with_row_index("feedview_id"), items, info)
    report(f"{len(events)} purchases written to {folder}")


def _category_of(file: Path) -> str:
    """The category in a file's name, in lower case, without what a browser adds to a second download."""
    stem = re.sub(r" ?\(\d+\)$", "", file.name.split(".")[0])
    return stem.removeprefix("reviews_").removesuffix("_5").lower()


def _read_sequences(file: Path) -> tuple[pl.DataFrame, pl.DataFrame | None]:
    """Events and items of lines `user item item …`, oldest first; the index in a line is the timestamp."""
    with reading(file):
        rows = list(_sequence_rows(file.read_text("utf-8-sig")))
    events = pl.DataFrame(rows, ["user_id", "item_id", "timestamp"], orient="row")
    attributes = file.with_name(f"{file.stem}_item2attributes.json")
    return events.with_columns(actions=PURCHASE), _items(attributes) if attributes.is_file() else None


def _read_reviews(file: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Events and items of a file with a JSON review a line; items are numbered in the order of their asin."""
    with reading(file):
        rows = list(_review_rows(file))
        if not rows:
            raise EventFormatError("there is no review; allowed: 1 or more")
    reviews = pl.DataFrame(rows, ["user_id", "asin", "time_ms"], orient="row")
    asin = reviews.select(title=pl.col("asin").unique().sort()).with_row_index("item_id", offset=1)
    events = reviews.join(asin, left_on="asin", right_on="title", maintain_order="left")
    events = events.sort("user_id", "time_ms", maintain_order=True)
    events = events.with_columns(timestamp=pl.col("time_ms") // 1000)
    events = events.unique(["user_id", "item_id", "timestamp"], keep="first", maintain_order=True)
    return events.with_columns(actions=PURCHASE), asin


def _sequence_rows(text: str) -> Iterator[tuple[str, int, int]]:
    line_of_user: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) < 2 or not all(field.isascii() and field.isdigit() for field in fields[1:]):
            raise EventFormatError(f"line {number} is {line[:60]!r}; allowed: user item item …")
        user, *items = fields
        if user in line_of_user:
            raise EventFormatError(
                f"user is {user} in lines {line_of_user[user]} and {number}; allowed: one line per user"
            )
        line_of_user[user] = number
        yield from ((user, int(item), index) for index, item in enumerate(items))


def _review_rows(file: Path) -> Iterator[tuple[str, str, int]]:
    opened = gzip.open if file.suffix.lower() == ".gz" else open
    with opened(file, "rt", encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            if line.isspace():
                continue
            try:
                review = REVIEW.validate_json(line)
            except ValidationError as error:
                shown = repr(line.strip()[:60])
                raise EventFormatError(f"line {number} is {shown}; allowed: JSON with {FIELDS}") from error
            yield review.user, review.asin, review.time_ms


def _items(file: Path) -> pl.DataFrame:
    with reading(file):
        try:
            of_item = ATTRIBUTES_OF_ITEM.validate_json(file.read_bytes())
        except ValidationError as error:
            allowed = '{"item": [attribute, …], …}, all of them numbers'
            raise EventFormatError(f"content is of another form; allowed: {allowed}") from error
    schema = {name: ITEM_SCHEMA[name] for name in ("item_id", "attributes")}
    return pl.DataFrame(list(of_item.items()), schema, orient="row")
