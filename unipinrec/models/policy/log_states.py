"""The states of logged requests, joined with a dataset's events a batch at a time.

Shapes: R logged requests, B of them in a batch, N events of a state, E events of all users, U users.
"""

import numpy as np

from unipinrec.arrays import Int64s
from unipinrec.data.exploration import ExplorationLog
from unipinrec.data.history import UNKNOWN_ROW
from unipinrec.data.interactions import InteractionDataset
from unipinrec.models.policy.config import PolicyConfig
from unipinrec.models.policy.state import Windows

TIME_BITS = 37
"""Bits of a timestamp (`LATEST_TIMESTAMP`), above which a user's index stands in a sort key."""


class LogStates:
    """States of a log's requests. A user whom the dataset doesn't have is one without events."""

    def __init__(self, interactions: InteractionDataset, log: ExplorationLog, config: PolicyConfig) -> None:
        self._events = interactions
        self._log = log
        begin_R, self._end_R = _events_before(interactions, log)
        self._length_R = np.minimum(self._end_R - begin_R, config.max_history)

    def __len__(self) -> int:
        return len(self._log)

    def windows(self, row_B: Int64s | slice) -> Windows:
        """Return the states of some of the requests."""
        length_B = self._length_R[row_B]
        column_N = np.arange(max(int(length_B.max(initial=0)), 1))
        is_event_BN = column_N < length_B[:, None]
        # Padding reads some event, which is then replaced.
        event_BN = np.where(is_event_BN, self._end_R[row_B][:, None] - 1 - column_N, 0)

        def padded(column_E: Int64s, value: int = 0) -> Int64s:
            rows_BN: Int64s = np.where(is_event_BN, column_E[event_BN], value)
            return rows_BN

        events = self._events
        return Windows(
            item_row_BN=padded(events.item_row_E, UNKNOWN_ROW),
            actions_BN=padded(events.actions_E),
            timestamp_BN=padded(events.timestamp_E),
            surface_BN=padded(events.surface_E),
            length_B=length_B,
            request_time_B=self._log.timestamp_R[row_B],
            request_surface_B=self._log.surface_R[row_B],
        )


def _events_before(interactions: InteractionDataset, log: ExplorationLog) -> tuple[Int64s, Int64s]:
    """Where each request's user has the first event, and where the first that isn't before the request."""
    length_U = np.diff(interactions.offset_U1)
    index = {user: number for number, user in enumerate(interactions.user_ids_U)}
    user_R = np.array([index.get(user, -1) for user in log.user_id_R], np.int64)
    key_E = (np.repeat(np.arange(len(length_U)), length_U) << TIME_BITS) + interactions.timestamp_E
    end_R = np.searchsorted(key_E, (user_R << TIME_BITS) + log.timestamp_R, side="left")
    known_R = user_R >= 0
    begin_R = np.where(known_R, interactions.offset_U1[user_R], 0)
    return begin_R, np.where(known_R, end_R, 0)
