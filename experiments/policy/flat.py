"""What the value network reads of a request, as one row of numbers for learners that read no sequences.

Shapes: R requests, B of them at once, N events, F content width, X numbers of a request.
"""

import numpy as np

from unipinrec.arrays import Bools, Float32s
from unipinrec.data.exploration import ExplorationLog
from unipinrec.data.interactions import InteractionDataset
from unipinrec.models.policy.config import PolicyConfig
from unipinrec.models.policy.log_states import LogStates
from unipinrec.models.policy.state import inputs_of

ROWS = 4096
RECENT = 8
"""Latest events that are averaged apart."""
HOUR_S = 3_600


def flat_states(interactions: InteractionDataset, log: ExplorationLog, config: PolicyConfig) -> Float32s:
    """Return for every request [R, X]: user attributes, time, surface, and mean content vectors of all events
    of the state, of the latest ones, and of the last hour, which is the session's."""
    states = LogStates(interactions, log, config)
    parts = []
    for start in range(0, len(log), ROWS):
        windows = states.windows(slice(start, min(start + ROWS, len(log))))
        inputs = inputs_of(windows, config)
        is_event_BN = inputs["is_event"]
        content_BNF = interactions.content_VF[windows.item_row_BN.clip(min=0)]
        # Windows have the newest event first.
        recent_BN, session_BN = np.arange(is_event_BN.shape[1]) < RECENT, windows.ages() <= HOUR_S
        surface_BS = np.eye(config.num_surfaces, dtype=np.float32)[inputs["surface"]]
        means = [_mean(content_BNF, is_event_BN & among) for among in (True, recent_BN, session_BN)]
        parts.append(np.concatenate([inputs["user"], inputs["context"], surface_BS, *means], axis=1))
    state_RX: Float32s = np.concatenate(parts).astype(np.float32)
    return state_RX


def _mean(content_BNF: Float32s, counted_BN: Bools) -> Float32s:
    share_BN = counted_BN / np.maximum(counted_BN.sum(axis=1), 1)[:, None]
    mean_BF: Float32s = np.einsum("bn,bnf->bf", share_BN.astype(np.float32), content_BNF)
    return mean_BF
