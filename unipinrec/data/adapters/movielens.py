"""Any release of MovieLens (Harper and Konstan, 2015) in GroupLens' files: ratings, and films beside them.

The 100,000 ratings that the project downloads and verifies are in `unipinrec.data.movielens`; actions, ties
and attributes are the same.
"""

from pathlib import Path

import polars as pl

from unipinrec.data.adapters.sources import Download, one_file
from unipinrec.data.download import Report
from unipinrec.data.events import EventFormatError, refuse
from unipinrec.data.movielens import INFO, Film, events_of, films_of_flags, items_of
from unipinrec.data.prepared import write_prepared
from unipinrec.data.tables import read_headless, read_text, reading, require_columns

FILMS_OF = {"ratings.csv": "movies.csv", "ratings.dat": "movies.dat", "u.data": "u.item"}
"""The file of films beside a file of ratings: of 20M and later, of 1M and 10M, and of 100K."""
COLUMNS = ("userId", "movieId", "rating", "timestamp")
NO_GENRES = "(no genres listed)"
LOWEST, HIGHEST = 0.5, 5.0
SHOWN_CHARACTERS = 60
"""Of a malformed line, in its error message."""

SMALL = Download(
    "files.grouplens.org",
    "/datasets/movielens/ml-100k.zip",
    members=tuple(f"*{name}" for pair in FILMS_OF.items() for name in pair),
)


def prepare_movielens(path: Path, folder: Path, report: Report) -> None:
    """Write the prepared dataset `folder` from a release of MovieLens.

    `path` is a file of ratings, in the format that its ending tells, or a folder that has one. Titles and
    attributes come from the file of films beside it, where there is one.

    Raises:
        EventFormatError: a file is missing or malformed.
        PreparedDatasetError: `folder` exists.
    """
    file = one_file(path, *FILMS_OF)
    ratings = read_ratings(file)
    films = next(file.with_name(films) for name, films in FILMS_OF.items() if name.endswith(_ending(file)))
    items = items_of(read_films(films)) if films.is_file() else None
    write_prepared(folder, events_of(ratings), items, INFO.model_copy(update={"name": "movielens"}))
    report(f"{len(ratings)} ratings written to {folder}")


def read_ratings(file: Path) -> pl.DataFrame:
    """Columns user_id, item_id and timestamp, all Int64, and rating, Float64: 0.5 to 5.

    Raises:
        EventFormatError: a column is missing, or a value malformed.
    """
    match _ending(file):
        case ".csv":
            text = read_text(file)
        case ".dat":
            text = read_headless(file, "::", COLUMNS)
        case _:
            text = read_headless(file, "\t", COLUMNS)
    with reading(file):
        require_columns(text.columns, COLUMNS)
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
    """The films in one of the files that `FILMS_OF` has for ratings.

    Raises:
        EventFormatError: a line is malformed.
    """
    match _ending(file):
        case ".csv":
            table = read_text(file)
            with reading(file):
                require_columns(table.columns, ("movieId", "title", "genres"))
                return _films(table.select(pl.col("movieId", "title", "genres").fill_null("")).rows())
        case ".dat":
            with reading(file):
                lines = filter(str.strip, _decoded(file.read_bytes()).splitlines())
                return _films([tuple(line.split("::")) for line in lines])
        case _:
            with reading(file):
                return films_of_flags(_decoded(file.read_bytes()))


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
