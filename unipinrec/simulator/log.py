"""The log as it grows: feedviews of many users step by step, in the end ordered by user and time.

Shapes: B feedviews of one step, S shown items of one step, D latent width.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import polars as pl

from unipinrec.arrays import Bools, Float32s, Int64s
from unipinrec.data.events import EVENT_SCHEMA
from unipinrec.simulator.items import external_ids
from unipinrec.simulator.truth import external_user_ids


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One feedview of each of some users."""

    user_B: Int64s
    timestamp_B: Int64s
    explored_B: Bools
    session_B: Int64s
    topic_B: Int64s
    taste_BD: Float32s
    feedview_S: Int64s
    """Index in B, ascending."""
    item_row_S: Int64s
    actions_S: Int64s
    timestamp_S: Int64s


def joined(steps: Sequence[Step]) -> Step:
    """Return all steps as one, ordered by user and time; rows of a feedview keep their order.

    A user's feedviews must come in the order of time.
    """
    columns = {
        field.name: np.concatenate([getattr(step, field.name) for step in steps]) for field in fields(Step)
    }
    begin = np.cumsum([0, *(len(step.user_B) for step in steps)])
    step_S = np.repeat(np.arange(len(steps)), [len(step.feedview_S) for step in steps])
    order_B = np.argsort(columns["user_B"], kind="stable")
    columns["feedview_S"] = np.argsort(order_B)[columns["feedview_S"] + begin[step_S]]
    order_S = np.argsort(columns["feedview_S"], kind="stable")
    return Step(
        **{name: column[order_S if name.endswith("_S") else order_B] for name, column in columns.items()}
    )


def events_of(log: Step, users: int, items: int) -> pl.DataFrame:
    """Return the rows of an ordered log in `EVENT_SCHEMA`.

    Exploration has surface 1; `feedview_id` is the index of the feedview.
    """
    columns = {
        "user_id": pl.Series(external_user_ids(users)).gather(log.user_B[log.feedview_S]),
        "item_id": external_ids(items)[log.item_row_S],
        "actions": log.actions_S,
        "surface": log.explored_B[log.feedview_S].astype(np.int32),
        "timestamp": log.timestamp_S,
        "feedview_id": log.feedview_S,
    }
    return pl.DataFrame(columns, schema=EVENT_SCHEMA)
