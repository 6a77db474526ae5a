"""What the value network knows of a request, made alike in training and in serving (PRL-PUTS §3.1).

Shapes: B requests, N events, A actions, U user attributes, T numbers of a time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from unipinrec.arrays import Bools, Float32s, Float64s, Int64s
from unipinrec.data.history import UNKNOWN_ROW, History
from unipinrec.models.policy.config import PolicyConfig

DAY_S = 86_400
ACTIVE_DAYS = 28
"""Days before the request in which active ones are counted."""
RECENT_S = (3_600, DAY_S, 7 * DAY_S)
"""Times before the request in which events are counted."""
LONGEST_S = 365 * DAY_S
"""Times between two events, or an event and its request, are cut here."""
EVENT_TIMES = 2
"""Numbers of an event's time: since the event, and since the one before it."""


@dataclass(frozen=True, slots=True)
class PolicyState:
    """One request: the user's latest events before it, its time in unix seconds and its surface."""

    events: History
    request_time: int
    surface: int


def policy_state(history: History, request_time: int, surface: int, config: PolicyConfig) -> PolicyState:
    """Return the state of a request: of a history's events before its second, the last `max_history`."""
    end = int(np.searchsorted(history.timestamp_N, request_time, side="left"))
    return PolicyState(history[max(end - config.max_history, 0) : end], request_time, surface)


@dataclass(frozen=True, slots=True, kw_only=True)
class Windows:
    """States of several requests as rows of equal length, newest event first and padded at the end.

    A causal transformer then lets every event see what was done since, and none see padding.
    """

    item_row_BN: Int64s
    """Padded with `UNKNOWN_ROW`; all else with 0. There is at least one column."""
    actions_BN: Int64s
    timestamp_BN: Int64s
    surface_BN: Int64s
    length_B: Int64s
    request_time_B: Int64s
    request_surface_B: Int64s

    @classmethod
    def of_states(cls, states: Sequence[PolicyState]) -> Self:
        """Return states as rows."""
        length_B = np.array([len(state.events) for state in states], np.int64)
        row_E = np.repeat(np.arange(len(states)), length_B)
        column_E = np.arange(len(row_E)) - np.repeat(length_B.cumsum() - length_B, length_B)
        shape = (len(states), max(int(length_B.max(initial=0)), 1))

        def padded(name: str, value: int = 0) -> Int64s:
            rows = np.full(shape, value, np.int64)
            if len(row_E):
                rows[row_E, column_E] = np.concatenate([getattr(one.events, name)[::-1] for one in states])
            return rows

        return cls(
            item_row_BN=padded("item_row_N", UNKNOWN_ROW),
            actions_BN=padded("actions_N"),
            timestamp_BN=padded("timestamp_N"),
            surface_BN=padded("surface_N"),
            length_B=length_B,
            request_time_B=np.array([state.request_time for state in states], np.int64),
            request_surface_B=np.array([state.surface for state in states], np.int64),
        )

    def is_event(self) -> Bools:
        """Return which columns are events, not padding, [B, N]."""
        is_event_BN: Bools = np.arange(self.item_row_BN.shape[1]) < self.length_B[:, None]
        return is_event_BN

    def ages(self) -> Int64s:
        """Return the seconds from each event to the request, [B, N]."""
        age_BN: Int64s = self.request_time_B[:, None] - self.timestamp_BN
        return age_BN

    def active_days(self, counted_BN: Bools, window_days: int) -> Int64s:
        """Return on how many of the last `window_days` days there was an event that counts, [B].

        Days are steps of 24 hours back from the request.
        """
        day_BN = self.ages() // DAY_S
        row_X, column_X = np.nonzero(counted_BN & self.is_event() & (day_BN < window_days))
        active_BD = np.zeros((len(self.length_B), window_days), np.bool_)
        active_BD[row_X, day_BN[row_X, column_X]] = True
        return active_BD.sum(1, dtype=np.int64)


def stack_states(states: Sequence[PolicyState], config: PolicyConfig) -> dict[str, NDArray[Any]]:
    """Return the inputs of the graph by name, all but `arm_places`; see `inputs_of`."""
    return inputs_of(Windows.of_states(states), config)


def inputs_of(windows: Windows, config: PolicyConfig) -> dict[str, NDArray[Any]]:
    """Return what the value network reads of requests, by name and in its order, requests first.

    | name | type | |
    |---|---|---|
    | `item_row` | int64 [B, N] | padded with -1 |
    | `event_actions` | float32 [B, N, A] | 1 for each action of the event |
    | `event_surface` | int64 [B, N] | |
    | `event_time` | float32 [B, N, T] | log of the time since it and since the one before it, 0 to 1 |
    | `is_event` | bool [B, N] | false for padding |
    | `user` | float32 [B, U] | attributes that follow from the events |
    | `context` | float32 [B, T] | sinusoids of the request's time over `time_periods_s` |
    | `surface` | int64 [B] | of the request |
    """
    is_event_BN = windows.is_event()
    bit_A = np.arange(config.num_actions)
    acted_BNA = ((windows.actions_BN[..., None] >> bit_A) & 1).astype(np.bool_)
    return {
        "item_row": windows.item_row_BN,
        "event_actions": acted_BNA.astype(np.float32),
        "event_surface": windows.surface_BN,
        "event_time": _event_times(windows, is_event_BN),
        "is_event": is_event_BN,
        "user": _user_attributes(windows, is_event_BN, acted_BNA, config),
        "context": _context(windows.request_time_B, config),
        "surface": windows.request_surface_B,
    }


def user_attributes(config: PolicyConfig) -> int:
    """Return how many numbers `user` has of a request."""
    return 4 + len(RECENT_S) + 3 * config.num_actions


def _event_times(windows: Windows, is_event_BN: Bools) -> Float32s:
    age_BN = windows.ages()
    older_BN = np.append(age_BN[:, 1:], age_BN[:, -1:], axis=1)
    # The oldest event kept has none before it, whatever the user did earlier: serving may not have it.
    has_older_BN = np.arange(1, age_BN.shape[1] + 1) < windows.length_B[:, None]
    gap_BN = np.where(has_older_BN, older_BN - age_BN, 0)
    time_BNT = np.stack([_log_time(age_BN), _log_time(gap_BN)], axis=-1)
    return np.where(is_event_BN[..., None], time_BNT, 0.0).astype(np.float32)


def _user_attributes(
    windows: Windows, is_event_BN: Bools, acted_BNA: Bools, config: PolicyConfig
) -> Float32s:
    """How many events, lately too, and of each action: how many, on which share of events and of days."""
    length_B, age_BN, row_B = windows.length_B, windows.ages(), np.arange(len(windows.length_B))
    none_B = length_B == 0
    newest_B = np.where(none_B, LONGEST_S, age_BN[:, 0])
    oldest_B = np.where(none_B, 0, age_BN[row_B, np.maximum(length_B - 1, 0)])
    within = [(is_event_BN & (age_BN <= seconds)).sum(1) for seconds in RECENT_S]
    count_BA = acted_BNA.sum(1)
    days_BA = [windows.active_days(acted_BNA[..., a], ACTIVE_DAYS) for a in range(config.num_actions)]
    columns = [
        *(_log_count(count_B, config) for count_B in (length_B, *within)),
        windows.active_days(is_event_BN, ACTIVE_DAYS) / ACTIVE_DAYS,
        _log_time(newest_B),
        _log_time(oldest_B),
        *_log_count(count_BA, config).T,
        *(count_BA / np.maximum(length_B, 1)[:, None]).T,
        *(days_B / ACTIVE_DAYS for days_B in days_BA),
    ]
    return np.stack(columns, axis=1).astype(np.float32)


def _context(request_time_B: Int64s, config: PolicyConfig) -> Float32s:
    period_T = np.array(config.time_periods_s, np.int64)
    # The remainder is taken in integers, where it is exact.
    angle_BT = request_time_B[:, None] % period_T / period_T * (2 * np.pi)
    return np.concatenate([np.sin(angle_BT), np.cos(angle_BT)], axis=1).astype(np.float32)


def _log_time(seconds: Int64s) -> Float64s:
    share: Float64s = np.log1p(seconds.clip(0, LONGEST_S)) / np.log1p(LONGEST_S)
    return share


def _log_count(count: Int64s, config: PolicyConfig) -> Float64s:
    share: Float64s = np.log1p(count) / np.log1p(config.max_history)
    return share
