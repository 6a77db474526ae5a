"""Which cohort a user belongs to at a request (PRL-PUTS §3.3).

Shapes: B requests, N events.
"""

import numpy as np

from unipinrec.arrays import Int64s
from unipinrec.data.history import History
from unipinrec.models.policy.config import PolicyConfig
from unipinrec.models.policy.state import Windows, policy_state


def cohort_of(history: History, request_time: int, config: PolicyConfig) -> int:
    """Return the index in `config.cohort_names` of a request's cohort, by the events of its state."""
    state = policy_state(history, request_time, 0, config)
    return int(cohorts_of(Windows.of_states([state]), config)[0])


def cohorts_of(windows: Windows, config: PolicyConfig) -> Int64s:
    """Return the cohorts of several requests, [B]: the first rule that holds for each, else `rest`."""
    cohort_B = np.full(len(windows.length_B), len(config.cohorts), np.int64)
    for number, rule in reversed(list(enumerate(config.cohorts))):
        counted_BN = windows.is_event()
        if rule.action is not None:
            counted_BN = (windows.actions_BN >> config.arms.actions.index(rule.action)) & 1 == 1
        cohort_B[windows.active_days(counted_BN, rule.window_days) >= rule.days] = number
    return cohort_B
