"""Exploration logs: requests that were served by a known chance with the weights of some arm, and what came.

Shapes: R requests, M rewards, K arms.
"""

import hashlib
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import ValidationError

from unipinrec.arrays import Bools, Float64s, Int64s
from unipinrec.config import Config, first_fault
from unipinrec.data.arms import Arms
from unipinrec.data.events import EventFormatError
from unipinrec.data.exploration_format import ARM, reward_columns, validate_requests, weight_columns
from unipinrec.data.tables import read_parquet, read_table

REQUESTS = "requests.parquet"
INFO = "exploration.json"


class ExplorationLogError(ValueError):
    """A folder that cannot be read as, or become, an exploration log; the message is one line."""


class ExplorationInfo(Config):
    """What an exploration log says of itself, `exploration.json`."""

    name: str
    arms: Arms
    synthetic: bool
    """Whether a simulator made it; what is learned from it says so."""
    sha256: str = ""
    """Of the table beside this file, set when the log is written."""

    @property
    def rewards(self) -> tuple[str, str]:
        """Return the actions that are rewarded: those whose weights vary, in their order."""
        first, second = self.arms.varied
        return first.action, second.action


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplorationLog:
    """Logged requests by time."""

    info: ExplorationInfo
    request_id_R: NDArray[np.object_]
    user_id_R: NDArray[np.object_]
    timestamp_R: Int64s
    """Unix seconds of the request. Its state is made of the user's events before it."""
    surface_R: Int64s
    explored_R: Bools
    """Whether the arm was drawn; otherwise it is production's or a policy's choice."""
    arm_R: Int64s
    propensity_R: Float64s
    """Chance with which the logged arm was drawn, among explored requests."""
    reward_RM: Float64s
    """From 0 to 1: by default whether at least one of the served items got the action (PRL-PUTS §3.1)."""

    def __len__(self) -> int:
        return len(self.request_id_R)

    def __getitem__(self, chosen: slice | Int64s | Bools) -> "ExplorationLog":
        """Return some of the requests, in order."""
        columns = {name: getattr(self, name)[chosen] for name in self.__slots__ if name != "info"}
        return ExplorationLog(info=self.info, **columns)

    @classmethod
    def of_table(cls, table: pl.DataFrame, info: ExplorationInfo) -> Self:
        """Return the log of a table (docs/policy-learning.md), ordered by time.

        Raises `EventFormatError` if the table breaks a rule of the format.
        """
        requests = validate_requests(table, info.arms)
        return cls(
            info=info,
            request_id_R=requests["request_id"].to_numpy(),
            user_id_R=requests["user_id"].to_numpy(),
            timestamp_R=requests["timestamp"].to_numpy(),
            surface_R=requests["surface"].to_numpy(),
            explored_R=requests["explored"].to_numpy(),
            arm_R=requests[ARM].to_numpy(),
            propensity_R=requests["propensity"].to_numpy(),
            reward_RM=requests.select(reward_columns(info.arms)).to_numpy(),
        )

    def table(self) -> pl.DataFrame:
        """Return the log in the format of its file."""
        arms = self.info.arms
        weight_R2 = arms.weights()[self.arm_R][:, list(arms.columns)]
        return pl.DataFrame(
            {
                "request_id": pl.Series(self.request_id_R, dtype=pl.String),
                "user_id": pl.Series(self.user_id_R, dtype=pl.String),
                "timestamp": self.timestamp_R,
                "surface": self.surface_R,
                "explored": self.explored_R,
                **dict(zip(weight_columns(arms), weight_R2.T, strict=True)),
                "propensity": self.propensity_R,
                **dict(zip(reward_columns(arms), self.reward_RM.T, strict=True)),
            }
        )

    def save(self, folder: Path) -> ExplorationInfo:
        """Write the log into the new folder `folder`, whole or not at all; return what it says of itself.

        Raises `EventFormatError` if the log breaks a rule of the format, and `ExplorationLogError` if
        `folder` exists.
        """
        require_new_log(folder)
        table = self.table()
        validate_requests(table, self.info.arms)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=folder.parent) as temporary:
            partial = Path(temporary) / "log"
            partial.mkdir()
            table.write_parquet(partial / REQUESTS)
            info = self.info.model_copy(update={"sha256": _sha256(partial / REQUESTS)})
            (partial / INFO).write_text(info.model_dump_json(indent=2) + "\n")
            partial.rename(folder)
        return info

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read a log after checking its table's hash.

        Raises `ExplorationLogError` if a file is missing, unreadable or of another hash.
        """
        info = read_log_info(folder)
        found = _sha256(_existing(folder, REQUESTS))
        if found != info.sha256:
            raise ExplorationLogError(
                f"log {folder}: sha256 of {REQUESTS} is {found}; allowed: {info.sha256}"
            )
        try:
            return cls.of_table(read_parquet(folder / REQUESTS), info)
        except EventFormatError as error:
            raise ExplorationLogError(f"log {folder}: {error}") from error


def require_new_log(folder: Path) -> None:
    """Raise `ExplorationLogError` if `folder` exists, as a log is never written over."""
    if folder.exists():
        raise ExplorationLogError(f"folder is {folder}, which exists; allowed: a new folder")


def import_log(table_file: Path, folder: Path, info: ExplorationInfo) -> ExplorationLog:
    """Write the log `folder` from a table of requests, which is what `read_table` reads.

    Raises `EventFormatError` if the file is not a table in the format (docs/policy-learning.md),
    `FileNotFoundError` if it is missing, and `ExplorationLogError` if `folder` exists.
    """
    log = ExplorationLog.of_table(read_table(table_file), info)
    log.save(folder)
    return log


def read_arms(file: Path) -> Arms:
    """Read arms from a JSON file that has their fields, or has them as `arms`, as `exploration.json` does.

    Raises `ExplorationLogError` if the file is not such JSON, and `OSError` if it cannot be read.
    """
    try:
        content = json.loads(file.read_bytes())
        found = content.get("arms", content) if isinstance(content, dict) else content
        return Arms.model_validate(found)
    except ValidationError as error:
        raise ExplorationLogError(f"file {file}: {first_fault(error)}") from error
    except ValueError as error:
        raise ExplorationLogError(f"file {file} is no JSON: {error}") from error


def read_log_info(folder: Path) -> ExplorationInfo:
    """Read what a log says of itself.

    Raises `ExplorationLogError` if the file is missing or unreadable.
    """
    try:
        return ExplorationInfo.model_validate_json(_existing(folder, INFO).read_bytes())
    except ValidationError as error:
        raise ExplorationLogError(f"log {folder}: {INFO} is unreadable: {error}") from error


def _existing(folder: Path, name: str) -> Path:
    if not (folder / name).is_file():
        raise ExplorationLogError(
            f"log {folder} has no {name}; allowed: a folder that `unipinrec policy simulate`, `import` or "
            "`join` made"
        )
    return folder / name


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
