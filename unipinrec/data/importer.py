"""Brings a log of one's own into a prepared dataset."""

from pathlib import Path

from unipinrec.data.events import DatasetInfo, validate_events
from unipinrec.data.feedviews import group_in_time
from unipinrec.data.prepared import PreparedDataset, write_prepared
from unipinrec.data.tables import read_table


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

    Both are what `read_table` reads. A log without a `feedview_id` column gets feedviews of events close in
    time. A log without impressions (rows whose `actions` is 0) is marked `sampled_impressions`. Without
    `positive_actions`, all actions are.

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
