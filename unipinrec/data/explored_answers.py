"""Makes an exploration log of answers that a server gave and of what users did with them.

Shapes: R answers, A actions.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self

import numpy as np
import polars as pl
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from unipinrec.config import first_fault
from unipinrec.data.arms import RELATIVE_TOLERANCE, Arms
from unipinrec.data.events import EventFormatError, refuse, require_columns, typed
from unipinrec.data.exploration import ExplorationInfo, ExplorationLog
from unipinrec.data.exploration_format import reward_columns, weight_columns
from unipinrec.data.tables import read_table

OF_ANSWER = ("request_id", "user_id")
FEEDBACK = pl.Schema(
    {"request_id": pl.String, "user_id": pl.String, "item_id": pl.Int64, "actions": pl.Int64}
)

Id = Annotated[str, BeforeValidator(lambda found: str(found) if type(found) is int else found)]


class Decision(BaseModel):
    """How an answer's weights came about, as `POLICY_DECISION` says; what is not about a draw is left out."""

    model_config = ConfigDict(frozen=True)

    explored: bool = False
    arm: Annotated[int, Field(ge=0)] | None = None
    propensity: Annotated[float, Field(gt=0, le=1)] | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.explored and (self.arm is None or self.propensity is None):
            raise ValueError("arm and propensity of a decision that explored are missing")
        return self


class Answer(BaseModel):
    """One line of recorded answers."""

    model_config = ConfigDict(frozen=True)

    request_id: Annotated[str, Field(min_length=1)]
    user_id: Id
    timestamp: int
    """Unix seconds of the request."""
    surface: int = 0
    item_ids: tuple[int, ...]
    """Items that were served."""
    utility_weights: tuple[float, ...]
    """Of all actions, in the bundle's order."""
    decision: Decision


@dataclass(frozen=True, slots=True)
class Joined:
    """A log, and what had no part in it."""

    log: ExplorationLog
    unexplored: int
    """Answers whose weights were not drawn."""
    unanswered: int
    """Rows of feedback without an answer."""
    unserved: int
    """Rows of feedback on an item that the answer did not serve."""


def join(answers_file: Path, feedback_file: Path, info: ExplorationInfo) -> Joined:
    """Return the log of answers that explored.

    A reward is 1 if at least one served item got the action, else 0. Where a request was answered for several
    users, its id in the log is `<request id>/<user id>`.

    Raises `EventFormatError` if a file is not in its format (docs/policy-learning.md), an answer's weights
    are not those of its arm, or no answer explored.
    """
    answers = _read_answers(answers_file, info.arms)
    feedback = _read_feedback(feedback_file, len(info.arms.actions))
    pairs = answers.select(*OF_ANSWER, item_id="item_ids").explode("item_id").unique()
    unanswered = len(feedback.join(answers, on=OF_ANSWER, how="anti"))
    counted = feedback.join(pairs, on=(*OF_ANSWER, "item_id"), how="semi")
    log = ExplorationLog.of_table(_table(answers, counted, info.arms), info)
    return Joined(
        log=log,
        unexplored=len(answers) - len(log),
        unanswered=unanswered,
        unserved=len(feedback) - unanswered - len(counted),
    )


def _table(answers: pl.DataFrame, feedback: pl.DataFrame, arms: Arms) -> pl.DataFrame:
    """The explored answers in the log's format."""
    rewards = {
        name: (pl.col("actions").cast(pl.UInt64) // 2**column % 2).max().cast(pl.Float64)
        for name, column in zip(reward_columns(arms), arms.columns, strict=True)
    }
    done = feedback.group_by(OF_ANSWER).agg(**rewards)
    several = pl.col("user_id").n_unique().over("request_id") > 1
    full_id = pl.format("{}/{}", *OF_ANSWER)
    named = answers.with_columns(log_id=pl.when(several).then(full_id).otherwise("request_id"))
    drawn = named.filter("explored").join(done, on=OF_ANSWER, how="left", maintain_order="left")
    weight_R2 = arms.weights()[drawn["arm"].to_numpy()][:, list(arms.columns)]
    return drawn.with_columns(
        pl.col("log_id").alias("request_id"),
        *(pl.Series(name, weight) for name, weight in zip(weight_columns(arms), weight_R2.T, strict=True)),
        *(pl.col(name).fill_null(0.0) for name in rewards),
    )


def _read_answers(file: Path, arms: Arms) -> pl.DataFrame:
    rows = [_row(file, line, answer, arms) for line, answer in _numbered_answers(file)]
    if not any(row["explored"] for row in rows):
        raise EventFormatError(
            f"file {file} has {len(rows)} answers, none of which explored; allowed: 1 or more"
        )
    answers = pl.DataFrame(rows, schema_overrides={"arm": pl.Int64, "propensity": pl.Float64})
    for row in answers.filter(~pl.struct(OF_ANSWER).is_first_distinct()).head(1).iter_rows(named=True):
        raise EventFormatError(
            f"file {file}, line {row['line']}: request_id is {row['request_id']!r} again for user "
            f"{row['user_id']!r}; allowed: once"
        )
    return answers


def _row(file: Path, line: int, answer: Answer, arms: Arms) -> dict[str, object]:
    decision = answer.decision
    if decision.explored:
        _check_weights(f"file {file}, line {line}", answer, arms)
    return {
        "line": line,
        "request_id": answer.request_id,
        "user_id": answer.user_id,
        "timestamp": answer.timestamp,
        "surface": answer.surface,
        "item_ids": answer.item_ids,
        "explored": decision.explored,
        "arm": decision.arm,
        "propensity": decision.propensity,
    }


def _check_weights(where: str, answer: Answer, arms: Arms) -> None:
    arm, found = answer.decision.arm, answer.utility_weights
    if arm is None or arm >= len(arms):
        raise EventFormatError(f"{where}: arm is {arm}; allowed: 0 to {len(arms) - 1}")
    expected = arms.weights()[arm]
    if len(found) != len(expected) or not np.allclose(found, expected, rtol=RELATIVE_TOLERANCE, atol=0):
        raise EventFormatError(
            f"{where}: utility_weights is {list(found)}; allowed: {expected.tolist()}, those of arm {arm}"
        )


def _numbered_answers(file: Path) -> Iterator[tuple[int, Answer]]:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                yield number, Answer.model_validate_json(line)
            except ValidationError as error:
                raise EventFormatError(f"file {file}, line {number}: {first_fault(error)}") from error


def _read_feedback(file: Path, actions: int) -> pl.DataFrame:
    table = read_table(file)
    require_columns(table.columns, list(FEEDBACK))
    feedback = typed(table, FEEDBACK)
    for name in FEEDBACK:
        refuse(feedback, name, pl.col(name).is_null(), "a value in every row")
    most = 2**actions - 1
    refuse(feedback, "actions", ~pl.col("actions").is_between(0, most), f"0 to {most}")
    return feedback
