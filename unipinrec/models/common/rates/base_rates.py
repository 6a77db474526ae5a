"""How often users act, and are items and their attributes acted on, as smoothed log-odds: what the second
ranker starts from, and learns to correct.

Shapes: R requests, C candidates of all of them, V items, A actions, X of what is counted.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from unipinrec.arrays import Bools, Float32s, Float64s, Int64s
from unipinrec.data.sequences import Limits, PackedSequences, RequestSequences

NEVER = np.iinfo(np.int64).max
"""Unix seconds that no row reaches."""


class Counts(NamedTuple):
    """How often something was shown, and how often acted on."""

    shown_X: Int64s
    acted_XA: Int64s


class ItemFeatures(NamedTuple):
    """What items' counts say of candidates."""

    item_rate_CA: Float32s
    """Log-odds less those of the item's attributes."""
    item_shown_C: Float32s
    """log(1 + times shown)."""
    attribute_rate_CA: Float32s
    """Log-odds less the global ones, the mean over the item's attributes; 0 for an item that has none."""
    attribute_shown_C: Float32s
    """The mean of log(1 + times shown) over the item's attributes."""


class UserFeatures(NamedTuple):
    """What users' counts say of their requests."""

    user_rate_RA: Float32s
    """Log-odds less the global ones."""
    user_shown_R: Float32s
    """log(1 + rows that the rates were counted from)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseRates:
    """Rates at the end of training, as a checkpoint keeps them.

    The log-odds of an action are about `prior_A` + the user's + the item's + the attributes' rates.
    """

    prior_A: Float32s
    """Global log-odds."""
    user_strength_A: Float32s
    """Rows at the global rate that every user has beside those counted."""
    item_rate_VA: Float32s
    item_shown_V: Float32s
    attribute_rate_VA: Float32s
    attribute_shown_V: Float32s

    def items(self, item_row_C: Int64s) -> ItemFeatures:
        """Return what is known of candidates."""
        return ItemFeatures(
            self.item_rate_VA[item_row_C],
            self.item_shown_V[item_row_C],
            self.attribute_rate_VA[item_row_C],
            self.attribute_shown_V[item_row_C],
        )

    def users(self, sequences: RequestSequences, limits: Limits) -> UserFeatures:
        """Return what is known of users when they ask, out of the request's own sequences."""
        return user_features(sequences, limits, self.prior_A, self.user_strength_A)


def user_features(
    sequences: RequestSequences, limits: Limits, prior_A: Float32s, strength_A: Float32s
) -> UserFeatures:
    """Return the rates of each request's user, pulled towards the global ones."""
    counts = user_counts(sequences, limits, len(prior_A))
    deviation_RA = log_odds(counts, prior_A.astype(np.float64), strength_A) - prior_A
    return UserFeatures(deviation_RA.astype(np.float32), shown_feature(counts))


def user_counts(sequences: RequestSequences, limits: Limits, actions: int) -> Counts:
    """Return how often each request's user was shown something and acted, where both sequences reach back.

    Events without the impressions between them would tell of someone who always acts. So rows count from the
    oldest impression on, and from the oldest event on where the model may not read older ones. Without
    impressions, nothing counts.
    """
    events, impressions = sequences.events, sequences.impressions
    since_R = impressions.oldest(NEVER)
    cut_R = events.lengths >= limits.max_events
    since_R[cut_R] = np.maximum(since_R, events.oldest(0))[cut_R]
    recent_N = _since(events, since_R)
    acted_AR = [_counted(events, recent_N & (events.actions_N & 1 << a != 0)) for a in range(actions)]
    shown_R = _counted(events, recent_N) + _counted(impressions, _since(impressions, since_R))
    return Counts(shown_R, np.stack(acted_AR, axis=1))


def log_odds(counts: Counts, prior_XA: Float64s, strength_A: Float32s) -> Float64s:
    """Return log-odds of (acted + s x rate) / (shown + s), [X, A], for a rate given by its log-odds.

    It is the posterior mean of a beta prior, as in `unipinrec.models.baselines.rates`. Every s is above 0.
    """
    rate_XA = 1 / (1 + np.exp(-prior_XA))
    passed_XA = counts.shown_X[:, None] - counts.acted_XA
    odds_XA: Float64s = (counts.acted_XA + strength_A * rate_XA) / (passed_XA + strength_A * (1 - rate_XA))
    return np.log(odds_XA)


def shown_feature(counts: Counts) -> Float32s:
    """Return log(1 + times shown), [X]."""
    return np.log1p(counts.shown_X).astype(np.float32)


def _since(rows: PackedSequences, since_R: Int64s) -> Bools:
    return rows.timestamp_N >= np.repeat(since_R, rows.lengths)


def _counted(rows: PackedSequences, counts_N: Bools) -> Int64s:
    """Return how many rows of each request count, [R]."""
    bounds = pairwise(rows.offset_R1.tolist())
    return np.array([np.count_nonzero(counts_N[begin:end]) for begin, end in bounds], np.int64)
