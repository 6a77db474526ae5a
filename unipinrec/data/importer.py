"""Brings a log of one's own, parquet or CSV, into a prepared dataset."""

from pathlib import Path

import polars as pl

from unipinrec.data.events import DatasetInfo, EventFormatError, validate_events
from unipinrec.data.feedviews import group_in_time
from unipinrec.data.prepared import PreparedDataset, write_prepared


def import_events(
    events_file: Path,
    items_file: Path | None,
    folder: Path,
    *,
    name: str,
    actions: tuple[str, ...],
    surfaces: tuple[str, ...],
    utility_weights: tuple[float, ...],
    positive_actions: tuple[str, ...] | None = None,
) -> PreparedDataset:
    """Write the prepared dataset `folder` from an event log and, optionally, a table of items.

    A log without a `feedview_id` column gets feedviews of events close in time. A log without impressions
    (rows whose `actions` is 0) is marked `sampled_impressions`. Without `positive_actions`, all actions are.

    Raises:
        EventFormatError: a file is not a table in the event format.
        FileNotFoundError: a file is missing.
        PreparedDatasetError: `folder` exists.
        pydantic.ValidationError: a name or a weight is out of range.
    """
    info = DatasetInfo(
        name=name,
        actions=actions,
        surfaces=surfaces,
        utility_weights=utility_weights,
        sampled_impressions=False,
        positive_actions=actions if positive_actions is None else positive_actions,
    )
    log = read_table(events_file)
    events = validate_events(log, info)
    if "feedview_id" not in log.columns:
        events = group_in_time(events)
    has_impressions = bool((events["actions"] == 0).any())
    info = info.model_copy(update={"sampled_impressions": not has_impressions})
    return write_prepared(folder, events, read_table(items_file) if items_file else None, info)


def read_table(path: Path) -> pl.DataFrame:
    """The table in a parquet or CSV file; every column of a CSV file is text.

    Raises:
        EventFormatError: the file has another ending or cannot be parsed.
        FileNotFoundError: there is no such file.
    """
    if path.suffix not in (".parquet", ".csv"):
        raise EventFormatError(f"file is {path}; allowed: names that end in .parquet or .csv")
    if not path.is_file():
        raise FileNotFoundError(f"file is {path}; allowed: a file that exists")
    try:
        return pl.read_parquet(path) if path.suffix == ".parquet" else pl.read_csv(path, infer_schema=False)
    except pl.exceptions.PolarsError as error:
        reason = str(error).splitlines()[0]
        raise EventFormatError(f"file {path} is unreadable: {reason}") from error
