"""KuaiRand: logs of a short-video feed with several kinds of action per shown video (Gao et al., 2022)."""

from pathlib import Path

import polars as pl

from unipinrec.data.adapters.attributes import attributes_of
from unipinrec.data.adapters.sources import Download, files_below
from unipinrec.data.download import Report
from unipinrec.data.events import DatasetInfo, EventFormatError, refuse, require_columns
from unipinrec.data.feedviews import group_in_time
from unipinrec.data.prepared import write_prepared
from unipinrec.data.tables import read_header, read_text, reading

COLUMN_OF_ACTION = {
    "click": "is_click",
    "long_view": "long_view",
    "like": "is_like",
    "follow": "is_follow",
    "comment": "is_comment",
    "forward": "is_forward",
    "profile_enter": "is_profile_enter",
    "hate": "is_hate",
}
NEGATIVE = ("hate",)
TABS = 15
"""Tabs of the app where a video is shown; column `tab` is their number."""
REQUIRED = ("user_id", "video_id", "time_ms", "is_click")
LOGS = "log_*.csv"
FEATURES = "*video_features_basic*.csv"
DURATION_BOUNDS_S = (10, 30, 60, 180, 600)
"""Seconds at which the next bucket of durations begins."""

PURE = Download(
    "zenodo.org", "/records/10439422/files/KuaiRand-Pure.tar.gz", members=(f"*/{LOGS}", f"*/{FEATURES}")
)


def prepare_kuairand(path: Path, folder: Path, report: Report) -> None:
    """Write the prepared dataset `folder` from KuaiRand's logs.

    `path` is a folder with files `log_*.csv`, of which all are read, or one log, whose columns are separated
    by tabs if its name ends in `.tsv`. Side features of videos are read where there is a file of them.

    Raises `EventFormatError` if a file is missing or malformed, `PreparedDatasetError` if `folder` exists.
    """
    files, features = _sources(path)
    log = _joined({file: _read_log(file) for file in files})
    actions = tuple(name for name, column in COLUMN_OF_ACTION.items() if column in log.columns)
    events = _events_of(log, actions)
    positive = tuple(name for name in actions if name not in NEGATIVE)
    info = DatasetInfo(
        name="kuairand",
        actions=actions,
        surfaces=tuple(f"tab-{tab}" for tab in range(TABS)) if "tab" in log.columns else ("default",),
        tie_rule="by millisecond, then as in the log",
        sampled_impressions=False,
        history_impressions=True,
        positive_actions=positive,
        utility_weights=tuple(float(name in positive) for name in actions),
    )
    write_prepared(folder, events, _read_features(features, events) if features else None, info)
    report(f"{len(log) - len(events)} repeated rows left out, {len(events)} rows written to {folder}")


def _read_log(file: Path) -> pl.DataFrame:
    """The columns of a log that events are made of, all Int64."""
    header = read_header(file)
    with reading(file):
        require_columns(header, REQUIRED)
    flags = [column for column in COLUMN_OF_ACTION.values() if column in header]
    columns = [*REQUIRED[:3], *flags, *(["tab"] if "tab" in header else [])]
    log = read_text(file, types=dict.fromkeys(columns, pl.Int64))
    with reading(file):
        for name in columns:
            refuse(log, name, pl.col(name).is_null(), "a value in every row")
        for name in flags:
            refuse(log, name, ~pl.col(name).is_in([0, 1]), "0, 1")
        if "tab" in columns:
            refuse(log, "tab", ~pl.col("tab").is_between(0, TABS - 1), f"0 to {TABS - 1}")
    return log.select(columns)


def _events_of(log: pl.DataFrame, actions: tuple[str, ...]) -> pl.DataFrame:
    """A log as events with feedviews of rows close in time.

    Of a user's rows of one video and second, which exact repetitions are too, the first is kept.
    """
    mask = pl.sum_horizontal(pl.col(COLUMN_OF_ACTION[name]) * 2**bit for bit, name in enumerate(actions))
    surface = pl.col("tab") if "tab" in log.columns else pl.lit(0, pl.Int64)
    events = log.sort("user_id", "time_ms", maintain_order=True).select(
        pl.col("user_id").cast(pl.String),
        item_id="video_id",
        actions=mask,
        surface=surface,
        timestamp=pl.col("time_ms") // 1000,
    )
    first = events.unique(["user_id", "item_id", "timestamp"], keep="first", maintain_order=True)
    return group_in_time(first)


def _read_features(file: Path, events: pl.DataFrame) -> pl.DataFrame:
    """Attributes of the videos of `events`."""
    features = ("author_id", "video_type", "upload_type", "music_type", "tag", "video_duration")
    table = read_text(file, "video_id", *features)
    with reading(file):
        videos = table.with_columns(item_id=pl.col("video_id").cast(pl.Int64))
        videos = videos.join(events, on="item_id", how="semi")
        seconds = pl.col("video_duration").cast(pl.Float64) / 1000
        bucket = pl.sum_horizontal(seconds >= bound for bound in DURATION_BOUNDS_S)
        return attributes_of(
            videos,
            {
                "author": "author_id",
                "video_type": "video_type",
                "upload_type": "upload_type",
                "music_type": "music_type",
                "tag": pl.col("tag").str.split(","),
                "duration": pl.when(seconds.is_not_null()).then(bucket),
            },
        )


def _sources(path: Path) -> tuple[list[Path], Path | None]:
    """Logs, and the file of side features if there is one."""
    if path.is_file():
        logs, features = [path], sorted(path.parent.glob(FEATURES))
    else:
        logs, features = files_below(path, LOGS), files_below(path, FEATURES)
    if not logs:
        raise EventFormatError(f"folder {path} has no file {LOGS}; allowed: 1 or more")
    if len(features) > 1:
        names = ", ".join(str(file) for file in features)
        raise EventFormatError(f"there are {len(features)} files {FEATURES} ({names}); allowed: at most 1")
    return logs, features[0] if features else None


def _joined(logs: dict[Path, pl.DataFrame]) -> pl.DataFrame:
    first, *others = logs
    for file in others:
        if logs[file].columns != logs[first].columns:
            found, allowed = (", ".join(logs[each].columns) for each in (file, first))
            raise EventFormatError(f"file {file} has columns {found}; allowed: as in {first.name}, {allowed}")
    return pl.concat(logs.values())
