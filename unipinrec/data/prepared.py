"""A prepared dataset: a folder with events, items and `dataset.json`, written whole or not at all."""

import hashlib
import tempfile
from dataclasses import dataclass
from pathlib import Path

import polars as pl
from pydantic import ValidationError

from unipinrec.data.events import DatasetInfo, EventFormatError, validate_events, validate_items
from unipinrec.data.tables import read_parquet

EVENTS = "events.parquet"
ITEMS = "items.parquet"
INFO = "dataset.json"


class PreparedDatasetError(Exception):
    """A folder that cannot be read as, or become, a prepared dataset."""


@dataclass(frozen=True, slots=True)
class PreparedDataset:
    """The content of a prepared folder: events as `validate_events`, items as `validate_items` gives them."""

    info: DatasetInfo
    events: pl.DataFrame
    items: pl.DataFrame


def write_prepared(
    folder: Path, events: pl.DataFrame, items: pl.DataFrame | None, info: DatasetInfo
) -> PreparedDataset:
    """Check the tables and write them into the new folder `folder`. Items of events join the catalogue.

    Raises `EventFormatError` if a table is not in the event format, and `PreparedDatasetError` if `folder`
    exists.
    """
    require_new(folder)
    events = validate_events(events, info)
    items = _catalogue(events, items)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=folder.parent) as temporary:
        partial = Path(temporary) / "dataset"
        partial.mkdir()
        events.write_parquet(partial / EVENTS)
        items.write_parquet(partial / ITEMS)
        info = info.model_copy(update={"sha256": {name: _sha256(partial / name) for name in (EVENTS, ITEMS)}})
        (partial / INFO).write_text(info.model_dump_json(indent=2) + "\n")
        partial.rename(folder)
    return PreparedDataset(info, events, items)


def require_new(folder: Path) -> None:
    """Raise `PreparedDatasetError` if `folder` exists, as a prepared dataset is never written over."""
    if folder.exists():
        raise PreparedDatasetError(f"folder is {folder}, which exists; allowed: a new folder")


def read_prepared(folder: Path) -> PreparedDataset:
    """Read a prepared dataset after checking the tables' hashes.

    Raises `PreparedDatasetError` if a file is missing, unreadable or of another hash.
    """
    info = read_info(folder)
    for name in (EVENTS, ITEMS):
        found, expected = _sha256(_existing(folder, name)), info.sha256.get(name)
        if found != expected:
            raise PreparedDatasetError(f"dataset {folder}: sha256 of {name} is {found}; allowed: {expected}")
    try:
        # Validated again, as a folder written before items had attributes and content lacks those columns.
        items = validate_items(read_parquet(folder / ITEMS))
        return PreparedDataset(info, read_parquet(folder / EVENTS), items)
    except EventFormatError as error:
        raise PreparedDatasetError(f"dataset {folder}: {error}") from error


def read_info(folder: Path) -> DatasetInfo:
    """Read what a prepared dataset says of itself.

    Raises `PreparedDatasetError` if the file is missing or unreadable.
    """
    try:
        return DatasetInfo.model_validate_json(_existing(folder, INFO).read_bytes())
    except ValidationError as error:
        raise PreparedDatasetError(f"dataset {folder}: {INFO} is unreadable: {error}") from error


def _existing(folder: Path, name: str) -> Path:
    if not (folder / name).is_file():
        raise PreparedDatasetError(
            f"dataset {folder} has no {name}; allowed: a folder that `unipinrec data import`, `fetch` or "
            "`simulate` made"
        )
    return folder / name


def _catalogue(events: pl.DataFrame, items: pl.DataFrame | None) -> pl.DataFrame:
    acted_on = events.select(pl.col("item_id").unique())
    items = validate_items(acted_on if items is None else items)
    everything = validate_items(items.join(acted_on, on="item_id", how="full", coalesce=True))
    return everything.with_columns(title=pl.coalesce("title", pl.col("item_id").cast(pl.String)))


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
