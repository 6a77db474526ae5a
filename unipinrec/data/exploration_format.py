"""The table of an exploration log: its columns, and the checks that make its chances trustworthy.

Shapes: E explored requests, K arms, P different pairs of weights, R requests.
"""

import numpy as np
import polars as pl

from unipinrec.arrays import Int64s
from unipinrec.data.arms import NO_ARM, Arms
from unipinrec.data.events import EventFormatError, refuse, require_columns, typed
from unipinrec.data.limits import LATEST_TIMESTAMP, LONGEST_USER_ID

LONGEST_REQUEST_ID = 512
"""Bytes of a request id in UTF-8."""
LARGEST_SURFACE = 2**31 - 1
TOLERANCE = 1e-3
"""By which chances may miss their sum: logs hold what a float32 or a decimal text kept."""
STANDARD_ERRORS = 5
"""By which the mean of 1 / (K x propensity) may miss 1 by chance."""
TRUTH_OF = {"true": True, "1": True, "false": False, "0": False}

ARM = "arm"
PROPENSITIES = "propensities"
OPTIONAL = ("surface", "explored", PROPENSITIES)


def weight_columns(arms: Arms) -> tuple[str, str]:
    """Return the columns that hold the two varied weights of a request."""
    first, second = arms.varied
    return f"weight_{first.action}", f"weight_{second.action}"


def reward_columns(arms: Arms) -> tuple[str, str]:
    """Return the columns that hold the two rewards of a request."""
    first, second = arms.varied
    return f"reward_{first.action}", f"reward_{second.action}"


def request_schema(arms: Arms) -> pl.Schema:
    """Return the columns of a stored log, which is in the format that is imported."""
    return pl.Schema(
        {
            "request_id": pl.String,
            "user_id": pl.String,
            "timestamp": pl.Int64,
            "surface": pl.Int64,
            "explored": pl.Boolean,
            **dict.fromkeys(weight_columns(arms), pl.Float64),
            "propensity": pl.Float64,
            **dict.fromkeys(reward_columns(arms), pl.Float64),
        }
    )


def validate_requests(frame: pl.DataFrame, arms: Arms) -> pl.DataFrame:
    """Return the requests in `request_schema` with the number of their arm in `arm`, ordered by time.

    Optional columns are filled in, others left out. Numbers may be text, user ids and request ids numbers,
    and timestamps dates and times, taken for UTC where they have no zone.

    Raises `EventFormatError` if a column is missing or of another type, or a row breaks a rule of the format
    (docs/policy-learning.md). Rows are numbered from 1.
    """
    schema = request_schema(arms)
    require_columns(frame.columns, [name for name in schema if name not in OPTIONAL], OPTIONAL)
    if frame.is_empty():
        raise EventFormatError("log is empty; allowed: at least one request")
    if frame["timestamp"].dtype in (pl.Datetime, pl.Date):
        frame = frame.with_columns(pl.col("timestamp").dt.epoch("s"))
    if "explored" in frame.columns:
        frame = frame.with_columns(_truths(frame["explored"]))
    requests = typed(frame, schema, surface=0, explored=True)
    for name in schema:
        refuse(requests, name, pl.col(name).is_null(), "a value in every row")
    _check_ranges(requests, arms)
    requests = requests.with_columns(pl.Series(ARM, _arms_of(requests, arms)))
    if PROPENSITIES in frame.columns:
        chances = typed(frame, pl.Schema({PROPENSITIES: pl.List(pl.Float64())}))
        _check_all_propensities(requests.hstack(chances), len(arms))
    else:
        _check_propensities(requests, len(arms))
    return requests.sort("timestamp", maintain_order=True)


def _truths(column: pl.Series) -> pl.Series:
    """The column as booleans: CSV has them as text."""
    if column.dtype == pl.Boolean:
        return column
    text = column.cast(pl.String).str.strip_chars().str.to_lowercase()
    found = text.replace_strict(TRUTH_OF, default=None, return_dtype=pl.Boolean)
    refuse(column.to_frame(), column.name, found.is_null() & column.is_not_null(), "true or false")
    return found


def _check_ranges(requests: pl.DataFrame, arms: Arms) -> None:
    for name, most in (("request_id", LONGEST_REQUEST_ID), ("user_id", LONGEST_USER_ID)):
        refuse(requests, name, ~pl.col(name).str.len_bytes().is_between(1, most), f"1 to {most} bytes")
    refuse(requests, "request_id", ~pl.col("request_id").is_first_distinct(), "every request once")
    in_time = pl.col("timestamp").is_between(0, LATEST_TIMESTAMP)
    refuse(requests, "timestamp", ~in_time, f"unix seconds, 0 to {LATEST_TIMESTAMP}")
    in_range = pl.col("surface").is_between(0, LARGEST_SURFACE)
    refuse(requests, "surface", ~in_range, f"0 to {LARGEST_SURFACE}")
    likely = pl.col("propensity").is_between(0, 1, closed="right")
    refuse(requests, "propensity", ~likely, "more than 0, at most 1")
    for name in reward_columns(arms):
        refuse(requests, name, ~pl.col(name).is_between(0, 1), "0 to 1")


def _arms_of(requests: pl.DataFrame, arms: Arms) -> Int64s:
    columns = weight_columns(arms)
    weight_R2 = requests.select(columns).to_numpy()
    weight_P2, pair_R = np.unique(weight_R2, axis=0, return_inverse=True)
    arm_R = arms.index_of(weight_P2)[pair_R]
    shown = " and ".join(columns)
    pairs = requests.select(pl.concat_list(columns).alias(shown))
    grid = ", ".join(
        f"{chosen.action} in {chosen.steps} steps from {chosen.low:g} to {chosen.high:g}"
        for chosen in arms.varied
    )
    production = " and ".join(f"{arms.production[column]:g}" for column in arms.columns)
    refuse(pairs, shown, pl.Series(arm_R == NO_ARM), f"{grid}, or production's {production}")
    return arm_R


def _check_all_propensities(requests: pl.DataFrame, arms: int) -> None:
    chances = pl.col(PROPENSITIES)
    refuse(requests, PROPENSITIES, chances.is_null(), "a value in every row")
    refuse(requests, PROPENSITIES, chances.list.len() != arms, f"{arms} chances, one for each arm")
    wrong = chances.list.eval(~pl.element().is_between(0, 1)).list.any()
    refuse(requests, PROPENSITIES, wrong, "chances from 0 to 1")
    total = requests.select(sum_of_propensities=chances.list.sum())
    off = (pl.col("sum_of_propensities") - 1).abs() > TOLERANCE
    refuse(total, "sum_of_propensities", off, f"1, within {TOLERANCE}")
    of_arm = requests.select("propensity", of_arm=chances.list.get(pl.col(ARM)))
    differs = (pl.col("propensity") - pl.col("of_arm")).abs() > TOLERANCE * pl.col("propensity")
    for row, given, found in of_arm.with_row_index("row", offset=1).filter(differs).head(1).iter_rows():
        raise EventFormatError(
            f"propensity is {given} in row {row}; allowed: {found}, which propensities has for its arm"
        )


def _check_propensities(requests: pl.DataFrame, arms: int) -> None:
    """Refuse chances that cannot be those of a draw among all arms: then 1 / (K p) has the mean 1."""
    inverse_E = 1 / (arms * requests.filter("explored")["propensity"].to_numpy())
    if not len(inverse_E):
        raise EventFormatError("explored is false in all rows; allowed: at least one drawn arm")
    error = inverse_E.std(ddof=1) / np.sqrt(len(inverse_E)) if len(inverse_E) > 1 else 0.0
    allowance = STANDARD_ERRORS * error + TOLERANCE
    if abs(inverse_E.mean() - 1) > allowance:
        raise EventFormatError(
            f"mean of 1 / ({arms} x propensity) is {inverse_E.mean():.4f} over {len(inverse_E)} explored "
            f"requests; allowed: 1, within {allowance:.4f}, as the chances of all {arms} arms sum up to 1"
        )
