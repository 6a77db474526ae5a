"""Brings a log of one's own into a prepared dataset."""

from pathlib import Path

from unipinrec.data.events import DatasetInfo, validate_events
from unipinrec.data.feedviews import group_in_time
from unipinrec.data.prepared import PreparedDataset, require_new, write_prepared
from unipinrec.data.tables import read_table


def import_events(
    events_file: Path, items_file: Path | None, folder: Path, info: DatasetInfo
) -> PreparedDataset:
    """Write the prepared dataset `folder` from an event log and, optionally, a table of items.

    Both are what `read_table` reads. A log without a `feedview_id` column gets feedviews of events close in
    time. Whether impressions are to be sampled is told by the log, which has some (rows whose `actions` is 0)
    or not.

    Raises `EventFormatError` if a file is not a table in the event format, `FileNotFoundError` if it is
    missing, and `PreparedDatasetError` if `folder` exists.
    """
    require_new(folder)
    log = read_table(events_file)
    events = validate_events(log, info)
    if "feedview_id" not in log.columns:
        events = group_in_time(events)
    sampled = not (events["actions"] == 0).any()
    return write_prepared(
        folder,
        events,
        read_table(items_file) if items_file else None,
        info.model_copy(update={"sampled_impressions": sampled}),
    )
