"""Items in files: JSON lines, or parquet where polars is installed."""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

from unipinrec_client.items import Item

COLUMNS = ("item_id", "title", "attributes", "content")


def read_items(path: Path) -> list[Item]:
    """Return the items of a file, with columns as `unipinrec data import --items` reads them. Raises
    `ValueError`, which names the row, for a file that holds anything else."""
    return [_item(path, place, row) for place, row in enumerate(_rows(path))]


def read_ids(path: Path) -> list[int]:
    """Return the `item_id` of each row. Raises `ValueError` as `read_items` does."""
    return [item.item_id for item in read_items(path)]


def _item(path: Path, place: int, row: Any) -> Item:
    if not isinstance(row, dict) or not isinstance(row.get("item_id"), int):
        raise ValueError(
            f"row {place} of {path} is {row!r:.100}; allowed: a number item_id and {COLUMNS[1:]}"
        )
    # A column that is missing or null is empty.
    known = {name: row[name] for name in COLUMNS if row.get(name) is not None}
    return Item(**known)


def _rows(path: Path) -> list[Any]:
    if path.suffix == ".parquet":
        try:
            polars: Any = import_module("polars")
        except ImportError:
            raise ValueError(f"file is {path}; parquet needs polars; allowed without it: .jsonl") from None
        rows: list[Any] = polars.read_parquet(path).to_dicts()
        return rows
    lines = path.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if line.strip()]
