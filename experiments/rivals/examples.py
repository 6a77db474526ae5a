"""What a rival learns from and scores: the second ranker's inputs, a row of numbers for each candidate.

Shapes: F feedviews, R requests, R1 = R + 1 offsets, N events of all requests, C candidates of all requests,
X numbers of a candidate, A actions.
"""

from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np

from unipinrec.arrays import Bools, Float32s, Float64s, Int64s
from unipinrec.data.interactions import split_at_time
from unipinrec.evaluation.future_feedviews import FutureFeedviews
from unipinrec.models.transact.batch import RequestBatch
from unipinrec.models.transact.examples import SlateConfig, SlateExamples
from unipinrec.models.transact.sequences import sequences_of

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
    def before(cls, views: FutureFeedviews, begin: int) -> tuple[Self, Self]:
        """Return all feedviews before a time, with rates as known at each, and `views`, which are not before
        it, with items' rates as known then."""
        config = SlateConfig(feedviews_per_user=len(views.dataset.feedviews), kept_without_engagement=1.0)
        slates = SlateExamples(views.dataset, Limits(), config, split_at_time(views.dataset, begin))
        batch = slates[np.arange(len(slates))]
        sequences, item_C = sequences_of(views.requests(), Limits()), np.concatenate(views.items())
        rates = slates.base_rates()
        later = RequestBatch.of(
            sequences, item_C, views.offsets, rates.users(sequences, Limits()), rates.items(item_C)
        )
        return cls._of(batch.requests, batch.label_CA.numpy() > 0), cls._of(later, views.labels)

    @classmethod
    def _of(cls, requests: RequestBatch, label_CA: Bools) -> Self:
        return cls(
            event_item_N=requests.events.item_row_N.numpy(),
            event_actions_N=requests.events.actions_N.numpy(),
            event_offset_R1=requests.events.offset_R1.numpy(),
            surface_R=requests.request_surface_R.numpy(),
            request_C=requests.request_of_candidate.numpy(),
            item_C=requests.candidate_item_C.numpy(),
            number_CX=_numbers(requests),
            label_CA=label_CA,
        )

    def arrays(self, labels: bool) -> dict[str, Any]:
        """Return the arrays by name, with labels or without."""
        names = [field.name for field in fields(self) if labels or field.name != "label_CA"]
        return {name: getattr(self, name) for name in names}


def _numbers(requests: RequestBatch) -> Float32s:
    """Rates, how often each was shown, time since the last event, length of the history, clock."""
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
        ]
    ).astype(np.float32)


def _clock(time_R: Int64s) -> list[Float64s]:
    """Sine and cosine of the time of day and of the time of the week."""
    angles = [time_R % period / period * 2 * np.pi for period in (DAY_S, 7 * DAY_S)]
    return [wave(angle_R) for angle_R in angles for wave in (np.sin, np.cos)]
