"""Tables in files, whoever wrote them: parquet, JSON lines, CSV and TSV, these compressed or not, whole or in
parts."""

import csv
import gzip
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote

import polars as pl

from unipinrec.data.events import EventFormatError, require_columns

PARQUET = ".parquet"
JSON_LINES = ".jsonl"
SEPARATOR_OF = {".csv": ",", ".csv.gz": ",", ".tsv": "\t", ".tsv.gz": "\t"}
"""The separator of columns, by the ending of the file's name."""
ENDINGS = (PARQUET, *SEPARATOR_OF, JSON_LINES)
NO_VALUE = "__HIVE_DEFAULT_PARTITION__"
"""What Spark and Hive name the folder of rows whose value is null."""


def read_table(path: Path) -> pl.DataFrame:
    """Read the table in a file, or in all files of a folder, in the order of their names.

    Columns of CSV and TSV are text. As Spark writes them, folders may hold folders `column=value`, and what
    has a name that begins with `_` or `.` is no part.

    Raises `EventFormatError` if a file has another ending or cannot be read, or a folder has no such file,
    and `FileNotFoundError` if there is neither a file nor a folder.
    """
    if path.is_file():
        return _read_part(path)
    if not path.exists():
        raise FileNotFoundError(f"file is {path}; allowed: a file or folder that exists")
    files = {file: file.relative_to(path) for file in sorted(path.rglob("*")) if file.is_file()}
    parts = {
        file: inner
        for file, inner in files.items()
        if _ending(file) and not any(name.startswith(("_", ".")) for name in inner.parts)
    }
    if not parts:
        raise EventFormatError(
            f"folder {path} has no file whose name ends in {', '.join(ENDINGS)}; allowed: 1 or more"
        )
    tables = [_read_part(file).with_columns(**_values_of(inner)) for file, inner in parts.items()]
    with reading(path):
        return pl.concat(tables)


def read_parquet(file: Path, *required: str) -> pl.DataFrame:
    """Read the table in a parquet file.

    Raises `EventFormatError` if the file cannot be read or lacks a required column.
    """
    with reading(file):
        with _silent_panics():
            table = pl.read_parquet(file, glob=False, hive_partitioning=False)
        require_columns(table.columns, required)
        return table


def read_text(
    file: Path, *required: str, types: Mapping[str, type[pl.DataType]] | None = None
) -> pl.DataFrame:
    """Read the table in a CSV or TSV file, without blank lines: the columns of `types`, or else all as text.

    Raises `EventFormatError` if the file cannot be read, lacks a required column, names a column twice, or
    has a value of another type.
    """
    columns = read_header(file)
    with reading(file):
        require_columns(columns, required)
        for name in filter(None, columns):
            if columns.count(name) > 1:
                raise EventFormatError(f"column {name} occurs {columns.count(name)} times; allowed: once")
        table = pl.read_csv(
            file,
            glob=False,
            separator=_separator(file),
            columns=list(types) if types else None,
            schema_overrides=types,
            infer_schema=False,
        )
        return _without_blank_lines(table)


def read_header(file: Path) -> list[str]:
    """Return the column names of a CSV or TSV file; a column without a name has an empty one.

    Raises `EventFormatError` if the file cannot be read.
    """
    opened = gzip.open if file.suffix.lower() == ".gz" else open
    with reading(file), opened(file, "rt", encoding="utf-8-sig", newline="") as lines:
        return next(filter(any, csv.reader(lines, delimiter=_separator(file))), [])


def read_headless(file: Path, separator: str, columns: Sequence[str]) -> pl.DataFrame:
    """Read the table in a text file without header and quotes, as text, without blank lines.

    A separator of several characters is looked for in memory, and may not stand beside tabs.
    Raises `EventFormatError` if the file cannot be read or has another number of columns.
    """
    with reading(file):
        source: Path | bytes = file
        if len(separator) > 1:
            source, separator = file.read_bytes().replace(separator.encode(), b"\t"), "\t"
        table = pl.read_csv(
            source, glob=False, separator=separator, has_header=False, quote_char=None, infer_schema=False
        )
        if table.width != len(columns):
            allowed = f"{len(columns)}: {', '.join(columns)}"
            raise EventFormatError(f"there are {table.width} columns; allowed: {allowed}")
        return _without_blank_lines(table.rename(dict(zip(table.columns, columns, strict=True))))


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what is wrong with a source file into an `EventFormatError` of one line that names it.

    Decoders of foreign bytes raise what they like, so nothing that they raise passes.
    """
    try:
        yield
    except EventFormatError as error:
        raise EventFormatError(f"file {path}: {error}") from error
    except pl.exceptions.PanicException as error:
        raise EventFormatError(f"file {path} is unreadable: its content is damaged") from error
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise EventFormatError(f"file {path} is unreadable: {reason}") from error


def _read_part(file: Path) -> pl.DataFrame:
    if _ending(file) is None:
        raise EventFormatError(f"file is {file}; allowed: names that end in {', '.join(ENDINGS)}")
    if _ending(file) == JSON_LINES:
        with reading(file):
            return pl.read_ndjson(file.read_bytes(), infer_schema_length=None)
    return read_parquet(file) if _ending(file) == PARQUET else read_text(file)


def _ending(file: Path) -> str | None:
    return next((ending for ending in ENDINGS if file.name.lower().endswith(ending)), None)


def _separator(file: Path) -> str:
    return SEPARATOR_OF.get(_ending(file) or "", ",")


def _values_of(part: Path) -> dict[str, pl.Expr]:
    """Columns that a part has by the names of its folders."""
    pairs = [name.split("=", 1) for name in part.parent.parts if "=" in name]
    return {
        column: pl.lit(None if value == NO_VALUE else unquote(value), pl.String) for column, value in pairs
    }


def _without_blank_lines(table: pl.DataFrame) -> pl.DataFrame:
    """Lines without a value, of blanks and separators alone, which editors and exports leave at the end."""
    blank = [
        (pl.col(name).str.strip_chars().replace("", None) if dtype == pl.String else pl.col(name)).is_null()
        for name, dtype in table.schema.items()
    ]
    return table.filter(~pl.all_horizontal(blank))


@contextmanager
def _silent_panics() -> Iterator[None]:
    """Damaged parquet makes polars panic, and it writes its stack to the error output before it raises."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
