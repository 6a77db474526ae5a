"""The log as it grows: feedviews of many users step by step, in the end ordered by user and time.

Shapes: B feedviews of one step, S shown items of one step, F feedviews and E rows of the whole log, D latent
width.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from unipinrec.data.events import EVENT_SCHEMA
from unipinrec.simulator.items import external_ids
from unipinrec.simulator.truth import Float32s, external_user_ids
from unipinrec.simulator.users import Int64s


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One feedview of each of some users."""

    user_B: Int64s
    timestamp_B: Int64s
    explored_B: NDArray[np.bool_]
    session_B: Int64s
    topic_B: Int64s
    taste_BD: Float32s
    feedview_S: Int64s
    """Index in B, ascending."""
    item_row_S: Int64s
    actions_S: Int64s
    timestamp_S: Int64s


class Log:
    """Collects steps; a user's feedviews must come in the order of time."""

    def __init__(self) -> None:
        self._steps: list[Step] = []

    def add(self, step: Step) -> None:
        """Append a step."""
        self._steps.append(step)

    def feedviews(self) -> Step:
        """Everything as one step, ordered by user and time; rows of a feedview keep their order."""
        joined = self._joined()
        order_F = np.argsort(joined.user_B, kind="stable")
        place_F = np.empty_like(order_F)
        place_F[order_F] = np.arange(len(order_F))
        feedview_E = place_F[joined.feedview_S]
        order_E = np.argsort(feedview_E, kind="stable")
        return Step(
            user_B=joined.user_B[order_F],
            timestamp_B=joined.timestamp_B[order_F],
            explored_B=joined.explored_B[order_F],
            session_B=joined.session_B[order_F],
            topic_B=joined.topic_B[order_F],
            taste_BD=joined.taste_BD[order_F],
            feedview_S=feedview_E[order_E],
            item_row_S=joined.item_row_S[order_E],
            actions_S=joined.actions_S[order_E],
            timestamp_S=joined.timestamp_S[order_E],
        )

    def _joined(self) -> Step:
        steps = self._steps
        begin = np.cumsum([0] + [len(step.user_B) for step in steps])
        feedview_E = [step.feedview_S + first for step, first in zip(steps, begin[:-1], strict=True)]
        return Step(
            user_B=np.concatenate([step.user_B for step in steps]),
            timestamp_B=np.concatenate([step.timestamp_B for step in steps]),
            explored_B=np.concatenate([step.explored_B for step in steps]),
            session_B=np.concatenate([step.session_B for step in steps]),
            topic_B=np.concatenate([step.topic_B for step in steps]),
            taste_BD=np.concatenate([step.taste_BD for step in steps]),
            feedview_S=np.concatenate(feedview_E),
            item_row_S=np.concatenate([step.item_row_S for step in steps]),
            actions_S=np.concatenate([step.actions_S for step in steps]),
            timestamp_S=np.concatenate([step.timestamp_S for step in steps]),
        )


def events_of(log: Step, users: int, items: int) -> pl.DataFrame:
    """The rows of an ordered log in `EVENT_SCHEMA`. Exploration has surface 1; `feedview_id` is the index."""
    columns = {
        "user_id": pl.Series(external_user_ids(users)).gather(log.user_B[log.feedview_S]),
        "item_id": external_ids(items)[log.item_row_S],
        "actions": log.actions_S,
        "surface": log.explored_B[log.feedview_S].astype(np.int32),
        "timestamp": log.timestamp_S,
        "feedview_id": log.feedview_S,
    }
    return pl.DataFrame(columns, schema=EVENT_SCHEMA)
