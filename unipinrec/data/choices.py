"""What any policy would have chosen in the requests of an exploration log, and a model expects of them.

Shapes: R requests of the log, K arms, M rewards.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl

from unipinrec.arrays import Float64s, Int64s
from unipinrec.data.arms import Arms
from unipinrec.data.events import EventFormatError, refuse, require_columns, typed
from unipinrec.data.exploration import ExplorationLog
from unipinrec.data.tables import read_table

NUMBERS = pl.List(pl.Float64())

KEY = "request_id"
ARM = "arm"
CHANCES = "chances"


def value_columns(arms: Arms) -> tuple[str, str]:
    """Return the columns that hold what a model expects of every arm."""
    first, second = arms.varied
    return f"value_{first.action}", f"value_{second.action}"


def read_choices(file: Path, log: ExplorationLog) -> Int64s | Float64s:
    """Return the arm of every request of a log, [R], or the chances of all arms, [R, K], in the log's order.

    The table has `request_id` and either `arm` or `chances`, a list with a number for each arm. Requests that
    are not in the log are left out.

    Raises `EventFormatError` if the table breaks this, or a request of the log has no row or more than one.
    """
    table, arms = read_table(file), len(log.info.arms)
    if CHANCES in table.columns and ARM not in table.columns:
        return _numbers(_checked(table, {CHANCES: NUMBERS}), CHANCES, log)
    rows = _checked(table, {ARM: pl.Int64()})
    refuse(rows, ARM, ~pl.col(ARM).is_between(0, arms - 1), f"0 to {arms - 1}")
    arm_R: Int64s = _of_requests(rows, log)[ARM].to_numpy()
    return arm_R


def read_values(file: Path, log: ExplorationLog) -> Float64s:
    """Return what a model expects of every arm in every request of a log, [R, K, M], in the log's order.

    The table has `request_id` and a list with a number for each arm in the column of each reward.

    Raises `EventFormatError` as `read_choices`.
    """
    names = value_columns(log.info.arms)
    rows = _checked(read_table(file), dict.fromkeys(names, NUMBERS))
    return np.stack([_numbers(rows, name, log) for name in names], axis=-1)


def _checked(table: pl.DataFrame, columns: Mapping[str, pl.DataType]) -> pl.DataFrame:
    schema = pl.Schema({KEY: pl.String(), **columns})
    require_columns(table.columns, schema.names())
    rows = typed(table, schema)
    for name in schema:
        refuse(rows, name, pl.col(name).is_null(), "a value in every row")
    refuse(rows, KEY, ~pl.col(KEY).is_first_distinct(), "each request once")
    return rows


def _of_requests(rows: pl.DataFrame, log: ExplorationLog) -> pl.DataFrame:
    """Return the rows of the log's requests, in its order."""
    asked = pl.DataFrame({KEY: pl.Series(log.request_id_R, dtype=pl.String)})
    missing = asked.join(rows, on=KEY, how="anti", maintain_order="left")
    if len(missing):
        raise EventFormatError(
            f"request {missing[KEY][0]} of log {log.info.name} has no row, as {len(missing)} of {len(asked)} "
            "explored requests; allowed: a row for each"
        )
    return asked.join(rows, on=KEY, maintain_order="left")


def _numbers(rows: pl.DataFrame, name: str, log: ExplorationLog) -> Float64s:
    arms = len(log.info.arms)
    refuse(rows, name, pl.col(name).list.len() != arms, f"{arms} numbers, one for each arm")
    finite = pl.col(name).list.eval(pl.element().is_finite()).list.all()
    refuse(rows, name, ~finite, "finite numbers")
    return _of_requests(rows, log)[name].explode().to_numpy().reshape(-1, arms)
