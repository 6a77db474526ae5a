"""Any release of MovieLens (Harper and Konstan, 2015) in GroupLens' files: ratings, and films beside them."""

import hashlib
from itertools import compress
from pathlib import Path
from typing import NamedTuple

import polars as pl

from unipinrec.data.adapters.attributes import attributes_of
from unipinrec.data.adapters.sources import Download, one_file
from unipinrec.data.download import Report
from unipinrec.data.events import DatasetInfo, EventFormatError, refuse
from unipinrec.data.feedviews import group_in_time
from unipinrec.data.prepared import write_prepared
from unipinrec.data.tables import read_headless, read_text, reading

WATCH, LIKE, LOVE, DISLIKE = 1, 2, 4, 8

GENRES = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama",
    "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip
"""In the order of the flags in `u.item`."""
NO_GENRES = "(no genres listed)"

FILMS_OF = {"ratings.csv": "movies.csv", "ratings.dat": "movies.dat", "u.data": "u.item"}
"""The file of films beside a file of ratings: of 20M and later, of 1M and 10M, and of 100K."""
COLUMNS = ("userId", "movieId", "rating", "timestamp")
LOWEST, HIGHEST = 0.5, 5.0
SHOWN_CHARACTERS = 60
"""Characters of a malformed line in its error message."""

INFO = DatasetInfo(
    name="movielens",
    actions=("watch", "like", "love", "dislike"),
    tie_rule="events of one user with equal timestamps are ordered by sha256 of '<user id> <item id>'",
    sampled_impressions=True,
    positive_actions=("watch", "like", "love"),
    utility_weights=(1.0, 1.0, 1.0, 0.0),
)
SMALL = Download(
    "files.grouplens.org",
    "/datasets/movielens/ml-100k.zip",
    members=tuple(f"*{name}" for pair in FILMS_OF.items() for name in pair),
)


class Film(NamedTuple):
    """What a release tells of a film."""

    item_id: int
    title: str
    genres: tuple[str, ...]


def prepare_movielens(path: Path, folder: Path, report: Report) -> None:
    """Write the prepared dataset `folder` from a release of MovieLens.

    `path` is a file of ratings, in the format that its ending tells, or a folder that has one. Titles and
    attributes come from the file of films beside it, where there is one.

    Raises `EventFormatError` if a file is missing or malformed, `PreparedDatasetError` if `folder` exists.
    """
    file = one_file(path, *FILMS_OF)
    ratings = read_ratings(file)
    films = next(file.with_name(films) for name, films in FILMS_OF.items() if name.endswith(_ending(file)))
    write_prepared(folder, events_of(ratings), items_of(read_films(films)) if films.is_file() else None, INFO)
    report(f"{len(ratings)} ratings written to {folder}")


def read_ratings(file: Path) -> pl.DataFrame:
    """Return columns user_id, item_id and timestamp, all Int64, and rating, Float64: 0.5 to 5.

    Raises `EventFormatError` if a column is missing, or a value malformed.
    """
    match _ending(file):
        case ".csv":
            text = read_text(file, *COLUMNS)
        case ".dat":
            text = read_headless(file, "::", COLUMNS)
        case _:
            text = read_headless(file, "\t", COLUMNS)
    with reading(file):
        ratings = text.select(
            user_id=pl.col("userId").cast(pl.Int64, strict=False),
            item_id=pl.col("movieId").cast(pl.Int64, strict=False),
            rating=pl.col("rating").cast(pl.Float64, strict=False),
            timestamp=pl.col("timestamp").cast(pl.Int64, strict=False),
        )
        for name, number in zip(COLUMNS, ratings, strict=True):
            refuse(text, name, number.is_null(), "a number")
        refuse(ratings, "rating", ~pl.col("rating").is_between(LOWEST, HIGHEST), f"{LOWEST} to {HIGHEST}")
        return ratings


def read_films(file: Path) -> list[Film]:
    """Return the films in a file that `FILMS_OF` has for ratings.

    Raises `EventFormatError` if a line is malformed.
    """
    if _ending(file) == ".csv":
        columns = ("movieId", "title", "genres")
        table = read_text(file, *columns).select(pl.col(columns).fill_null(""))
        with reading(file):
            return _films(table.rows())
    with reading(file):
        lines = [line for line in _decoded(file.read_bytes()).splitlines() if line.strip()]
        if _ending(file) == ".dat":
            return _films([tuple(line.split("::")) for line in lines])
        return [
            Film(int(item), title, tuple(compress(GENRES, map(int, flags))))
            for item, title, _, _, _, *flags in (line.split("|") for line in lines)
        ]


def _films(rows: list[tuple[str, ...]]) -> list[Film]:
    films = []
    for number, row in enumerate(rows, 1):
        if len(row) != 3 or not row[0].isdecimal():
            shown = "::".join(row)[:SHOWN_CHARACTERS]
            raise EventFormatError(f"row {number} is {shown!r}; allowed: <number>::<title>::<genre>|<genre>…")
        item, title, genres = row
        named = () if genres == NO_GENRES else filter(None, genres.split("|"))
        films.append(Film(int(item), title, tuple(named)))
    return films


def _ending(file: Path) -> str:
    return file.suffix.lower()


def _decoded(content: bytes) -> str:
    """Text of early releases is latin-1, of later ones UTF-8, which accents in latin-1 are not by chance."""
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content.decode("latin-1")


def events_of(ratings: pl.DataFrame) -> pl.DataFrame:
    """Return ratings as events: all are `watch`, 4 and 5 `like`, 5 `love`, 1 and 2 `dislike`.

    Half of all ratings share their second with another of the same person. A hash orders those: the order of
    the file is arbitrary, and ids follow popularity, so that ordering by id would tell which item comes last.
    """
    rating = pl.col("rating")
    actions = pl.lit(WATCH) + (rating >= 4) * LIKE + (rating == 5) * LOVE + (rating <= 2) * DISLIKE
    events = ratings.select(
        pl.col("user_id").cast(pl.String), "item_id", actions.cast(pl.Int64).alias("actions"), "timestamp"
    )
    pairs = zip(events["user_id"], events["item_id"], strict=True)
    # The first 64 bits order as the whole hash does, and take a tenth of the memory.
    tie = pl.Series("tie", [hashlib.sha256(f"{user} {item}".encode()).digest()[:8] for user, item in pairs])
    return group_in_time(events.with_columns(tie).sort("user_id", "timestamp", "tie").drop("tie"))


def items_of(films: list[Film]) -> pl.DataFrame:
    """Return films as `ITEM_SCHEMA`, without content: attributes are genres and the year in the title."""
    schema = pl.Schema({"item_id": pl.Int64(), "title": pl.String(), "genres": pl.List(pl.String)})
    frame = pl.DataFrame(films, schema, orient="row").with_columns(pl.col("title").str.strip_chars())
    year = pl.col("title").str.extract(r"\((\d{4})\)")
    attributes = attributes_of(frame, {"genre": "genres", "year": year})
    return frame.drop("genres").join(attributes, on="item_id", how="left")
