"""Rates of what a training part showed, with the strengths that suit it.

Shapes: F feedviews, R requests, A actions.
"""

import numpy as np

from unipinrec.arrays import Float64s
from unipinrec.data.feedviews import group_of
from unipinrec.data.past_sequences import PastSequences
from unipinrec.data.training_part import Example, TrainingPart
from unipinrec.models.common.rates.base_rates import user_counts
from unipinrec.models.common.rates.rate_history import (
    WITHOUT_IMPRESSIONS,
    Judged,
    RateHistory,
    ShownRows,
    Strengths,
)

JUDGED_SHARE = 0.2
"""Of the training feedviews, the latest, by which the strengths of rates are chosen."""
MOST_JUDGED = 2_000
"""Feedviews."""


def training_rates(part: TrainingPart[Example], past: PastSequences, sampled: int) -> RateHistory:
    """Return rates of items and attributes, counted from a training part.

    Where the dataset has no impressions, nothing is known of what was shown in vain: `sampled` items beside
    each feedview give the global rates, and all others are equal to them.
    """
    dataset, slates = part.interactions, part.slates
    rows = ShownRows(
        item_row_S=slates.item_row_S,
        time_S=dataset.feedviews.timestamp_F[group_of(slates.offset_F1)],
        actions_S=slates.actions_S,
    )
    history = RateHistory(rows, dataset.attributes_VX, _global_rates(part, sampled))
    if dataset.info.sampled_impressions:
        history.strengths = Strengths.equal(WITHOUT_IMPRESSIONS, len(dataset.info.actions))
    elif len(slates.item_row_S):
        history.choose_strengths(_judged(part, past))
    return history


def _global_rates(part: TrainingPart[Example], sampled: int) -> Float64s:
    """Of the candidates that examples have, kept from 0 and 1 by half a row of each kind, [A]."""
    info, slates = part.interactions.info, part.slates
    shown = len(slates.item_row_S)
    if info.sampled_impressions:
        shown += np.count_nonzero(np.diff(slates.offset_F1)) * sampled
    acted_A: Float64s = slates.labels(len(info.actions)).sum(axis=0) + 0.5
    return acted_A / (shown + 1)


def _judged(part: TrainingPart[Example], past: PastSequences) -> Judged:
    """Feedviews of the latest part of the training time, evenly many of each part of it."""
    dataset = part.interactions
    actions, time_F = len(dataset.info.actions), dataset.feedviews.timestamp_F
    shown_F = np.flatnonzero(np.diff(part.slates.offset_F1))
    late_F = shown_F[time_F[shown_F] >= np.quantile(time_F[shown_F], 1 - JUDGED_SHARE)]
    late_F = late_F[np.argsort(time_F[late_F], kind="stable")]
    chosen = np.linspace(0, len(late_F) - 1, min(MOST_JUDGED, len(late_F))).astype(np.int64)
    slates = part.slates.taken(late_F[chosen])
    request_C = group_of(slates.offset_F1)
    return Judged(
        item_row_C=slates.item_row_S,
        time_C=time_F[late_F[chosen]][request_C],
        request_C=request_C,
        label_CA=slates.labels(actions),
        user_counts=user_counts(past.before(late_F[chosen]), past.limits, actions),
    )
