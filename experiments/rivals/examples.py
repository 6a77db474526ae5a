"""What a rival learns from and scores: the second ranker's inputs, a row of numbers for each candidate.

Shapes: F feedviews, R requests, R1 = R + 1 offsets, N events of all requests, C candidates of all requests,
X numbers of a candidate, A actions.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np

from unipinrec.arrays import Bools, Float32s, Float64s, Int64s
from unipinrec.data.feedviews import group_of
from unipinrec.data.interactions import split_at_time
from unipinrec.data.sequences import sequences_of
from unipinrec.evaluation.future_feedviews import FutureFeedviews
from unipinrec.models.transact.batch import RequestBatch
from unipinrec.models.transact.examples import SlateConfig, SlateExamples

DAY_S = 86_400


@dataclass(frozen=True, slots=True)
class Limits:
    """As TransAct reads users."""

    max_events: int = 100
    max_impressions: int = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """Requests and candidates one after another; events are oldest first within each request."""

    event_item_N: Int64s
    event_actions_N: Int64s
    """Bitmasks, never 0."""
    event_offset_R1: Int64s
    surface_R: Int64s
    request_C: Int64s
    item_C: Int64s
    number_CX: Float32s
    label_CA: Bools

    @classmethod
    def before(cls, views: FutureFeedviews, begin: int, half_lives_s: Sequence[int]) -> tuple[Self, Self]:
        """Return all feedviews before a time, with rates as known at each, and `views`, which are not before
        it, with items' rates as known then. Recent actions are counted by the half-lives."""
        config = SlateConfig(feedviews_per_user=len(views.dataset.feedviews), kept_without_engagement=1.0)
        slates = SlateExamples(views.dataset, Limits(), config, split_at_time(views.dataset, begin))
        batch = slates[np.arange(len(slates))]
        sequences, item_C = sequences_of(views.requests(), Limits()), np.concatenate(views.items())
        rates = slates.base_rates()
        later = RequestBatch.of(
            sequences, item_C, views.offsets, rates.users(sequences, Limits()), rates.items(item_C)
        )
        return (
            cls._of(batch.requests, batch.label_CA.numpy() > 0, half_lives_s),
            cls._of(later, views.labels, half_lives_s),
        )

    @classmethod
    def _of(cls, requests: RequestBatch, label_CA: Bools, half_lives_s: Sequence[int]) -> Self:
        return cls(
            event_item_N=requests.events.item_row_N.numpy(),
            event_actions_N=requests.events.actions_N.numpy(),
            event_offset_R1=requests.events.offset_R1.numpy(),
            surface_R=requests.request_surface_R.numpy(),
            request_C=requests.request_of_candidate.numpy(),
            item_C=requests.candidate_item_C.numpy(),
            number_CX=_numbers(requests, half_lives_s),
            label_CA=label_CA,
        )

    def arrays(self, labels: bool) -> dict[str, Any]:
        """Return the arrays by name, with labels or without."""
        names = [field.name for field in fields(self) if labels or field.name != "label_CA"]
        return {name: getattr(self, name) for name in names}


def _numbers(requests: RequestBatch, half_lives_s: Sequence[int]) -> Float32s:
    """Rates, how often each was shown, time since the last event, length of the history, clock, and recent
    actions."""
    events, time_R = requests.events, requests.request_time_R.numpy()
    length_R = events.lengths.numpy()
    last_R = np.append(events.timestamp_N.numpy(), 0)[(events.offset_R1[1:].numpy() - 1).clip(min=0)]
    gap_R = (time_R - last_R).clip(min=0) * (length_R > 0)
    context_RX = np.column_stack(
        [
            requests.user_rate_RA.numpy(),
            requests.user_shown_R.numpy(),
            np.log1p(gap_R),
            np.log1p(length_R),
            length_R == 0,
            *_clock(time_R),
        ]
    )
    return np.column_stack(
        [
            context_RX[requests.request_of_candidate.numpy()],
            requests.item_rate_CA.numpy(),
            requests.item_shown_C.numpy(),
            requests.attribute_rate_CA.numpy(),
            requests.attribute_shown_C.numpy(),
            _recent(requests, half_lives_s)[requests.request_of_candidate.numpy()],
        ]
    ).astype(np.float32)


def _recent(requests: RequestBatch, half_lives_s: Sequence[int]) -> Float64s:
    """log(1 + count) of every action and of impressions, each row counting half after a half-life, [R, X]."""
    time_R, bit_A = requests.request_time_R.numpy(), np.arange(requests.user_rate_RA.shape[1])
    columns = []
    for rows, is_event in ((requests.events, True), (requests.impressions, False)):
        request_N, actions_N = group_of(rows.offset_R1.numpy()), rows.actions_N.numpy()
        age_N = (time_R[request_N] - rows.timestamp_N.numpy()).clip(min=0)
        counted = (actions_N >> bit_A[:, None] & 1) if is_event else (actions_N == 0)[None]
        columns += [
            np.bincount(request_N, counted_N * 0.5 ** (age_N / half_life_s), len(time_R))
            for counted_N in counted
            for half_life_s in half_lives_s
        ]
    return np.log1p(np.stack(columns, axis=1))


def _clock(time_R: Int64s) -> list[Float64s]:
    """Sine and cosine of the time of day and of the time of the week."""
    angles = [time_R % period / period * 2 * np.pi for period in (DAY_S, 7 * DAY_S)]
    return [wave(angle_R) for angle_R in angles for wave in (np.sin, np.cos)]
