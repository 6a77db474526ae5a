"""What the second ranker computes with: requests whose sequences and candidates stay packed.

Shapes: R requests, R1 = R + 1 offsets, N rows of a sequence and C candidates, each of all requests one after
another, A actions, K nearest rows of a candidate.
"""

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from unipinrec.arrays import Int64s
from unipinrec.data.sequences import PackedSequences, RequestSequences
from unipinrec.models.common.rates.base_rates import ItemFeatures, UserFeatures


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedEvents:
    """Rows of all requests, oldest first within each. All tensors are int64."""

    item_row_N: Tensor
    actions_N: Tensor
    """Bitmasks; 0 for an impression that was not acted on."""
    surface_N: Tensor
    timestamp_N: Tensor
    """Unix seconds."""
    offset_R1: Tensor
    """Rows of request r are `offset_R1[r]` to `offset_R1[r + 1]`."""

    @classmethod
    def of(cls, sequences: PackedSequences) -> Self:
        """Return the rows as tensors that share the arrays' memory."""
        return cls(**{name: torch.from_numpy(getattr(sequences, name)) for name in cls.__slots__})

    def to(self, device: torch.device) -> Self:
        """Return the rows on a device."""
        return type(self)(**{name: getattr(self, name).to(device) for name in self.__slots__})

    @property
    def lengths(self) -> Tensor:
        """Return the number of rows of each request, [R]."""
        return self.offset_R1.diff()

    def requests(self, chosen: slice) -> Self:
        """Return the rows of some consecutive requests; views of the tensors but for the offsets."""
        offset_R1 = self.offset_R1[chosen.start : chosen.stop + 1]
        rows = slice(int(offset_R1[0]), int(offset_R1[-1]))
        return type(self)(
            item_row_N=self.item_row_N[rows],
            actions_N=self.actions_N[rows],
            surface_N=self.surface_N[rows],
            timestamp_N=self.timestamp_N[rows],
            offset_R1=offset_R1 - rows.start,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestBatch:
    """Requests as training, evaluation and serving ask them."""

    events: PackedEvents
    """What each user acted on before the request: the latest rows, as many as the model reads."""
    impressions: PackedEvents
    """What was shown to the user and not acted on."""
    request_time_R: Tensor
    """Unix seconds, int64."""
    request_surface_R: Tensor
    """int64."""
    user_rate_RA: Tensor
    """Smoothed log-odds of each action by this user, less the global log-odds, float32."""
    user_shown_R: Tensor
    """log(1 + rows that the rates were counted from), float32."""
    candidate_item_C: Tensor
    """Item rows, int64."""
    candidate_offset_R1: Tensor
    """Candidates of request r are `candidate_offset_R1[r]` to `candidate_offset_R1[r + 1]`, int64."""
    item_rate_CA: Tensor
    """Log-odds by the item less those of its attributes, so that the sum of all three rates and the global
    log-odds is the best guess before anything is learned."""
    item_shown_C: Tensor
    attribute_rate_CA: Tensor
    """Log-odds less the global ones, the mean over a candidate's attributes; 0 for one that has none."""
    attribute_shown_C: Tensor

    @classmethod
    def of(
        cls,
        sequences: RequestSequences,
        candidate_item_C: Int64s,
        candidate_offset_R1: Int64s,
        users: UserFeatures,
        items: ItemFeatures,
    ) -> Self:
        """Return requests as tensors that share the arrays' memory."""
        features = {
            name: torch.from_numpy(value) for name, value in (users._asdict() | items._asdict()).items()
        }
        return cls(
            events=PackedEvents.of(sequences.events),
            impressions=PackedEvents.of(sequences.impressions),
            request_time_R=torch.from_numpy(sequences.request_time_R),
            request_surface_R=torch.from_numpy(sequences.request_surface_R),
            candidate_item_C=torch.from_numpy(candidate_item_C),
            candidate_offset_R1=torch.from_numpy(candidate_offset_R1),
            **features,
        )

    def to(self, device: torch.device) -> Self:
        """Return the requests on a device."""
        return type(self)(**{name: getattr(self, name).to(device) for name in self.__slots__})

    @property
    def request_of_candidate(self) -> Tensor:
        """Return the request of each candidate, [C]."""
        count_R = self.candidate_offset_R1.diff()
        return torch.repeat_interleave(count_R, output_size=len(self.candidate_item_C))

    def requests(self, chosen: slice) -> Self:
        """Return some consecutive requests."""
        offset_R1 = self.candidate_offset_R1[chosen.start : chosen.stop + 1]
        candidates = slice(int(offset_R1[0]), int(offset_R1[-1]))
        return type(self)(
            events=self.events.requests(chosen),
            impressions=self.impressions.requests(chosen),
            request_time_R=self.request_time_R[chosen],
            request_surface_R=self.request_surface_R[chosen],
            user_rate_RA=self.user_rate_RA[chosen],
            user_shown_R=self.user_shown_R[chosen],
            candidate_item_C=self.candidate_item_C[candidates],
            candidate_offset_R1=offset_R1 - candidates.start,
            item_rate_CA=self.item_rate_CA[candidates],
            item_shown_C=self.item_shown_C[candidates],
            attribute_rate_CA=self.attribute_rate_CA[candidates],
            attribute_shown_C=self.attribute_shown_C[candidates],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class NearestRows:
    """Rows that a search found for each candidate, so that a step need not search again.

    Each is an index into the packed rows of the whole batch. The first `*_count_C` of a candidate's K have
    meaning, the others are 0. All tensors are int64.
    """

    older_CK: Tensor
    """Among the events before the realtime ones."""
    older_count_C: Tensor
    realtime_CK: Tensor
    """Among the realtime events before the latest, which every candidate gets."""
    realtime_count_C: Tensor
    impression_CK: Tensor
    """Among the impressions."""
    impression_count_C: Tensor

    def to(self, device: torch.device) -> Self:
        """Return the indices on a device."""
        return type(self)(**{name: getattr(self, name).to(device) for name in self.__slots__})

    def candidates(self, chosen: slice, first_event: int, first_impression: int) -> Self:
        """Return those of some candidates, for rows of which that many before theirs are left out."""
        rows = {name: getattr(self, name)[chosen] for name in self.__slots__}
        first = {"older_CK": first_event, "realtime_CK": first_event, "impression_CK": first_impression}
        # Unused places stay 0, which is below the first row.
        return type(self)(**rows | {name: (rows[name] - begin).clamp(min=0) for name, begin in first.items()})


@dataclass(frozen=True, slots=True, kw_only=True)
class RankingBatch:
    """Requests with what was done to their candidates."""

    requests: RequestBatch
    label_CA: Tensor
    """1 where the candidate got the action, else 0, float32."""
    user_R: Tensor
    """Users' numbers, int64: two requests of a batch may be one user's."""
    nearest: NearestRows | None = None

    def to(self, device: torch.device) -> Self:
        """Return the batch on a device."""
        return replace(
            self,
            requests=self.requests.to(device),
            label_CA=self.label_CA.to(device),
            user_R=self.user_R.to(device),
            nearest=None if self.nearest is None else self.nearest.to(device),
        )

    def rows(self, chosen: slice) -> Self:
        """Return some consecutive requests, as one process of several computes them."""
        whole = self.requests
        begin, end = (int(whole.candidate_offset_R1[row]) for row in (chosen.start, chosen.stop))
        nearest = self.nearest and self.nearest.candidates(
            slice(begin, end),
            int(whole.events.offset_R1[chosen.start]),
            int(whole.impressions.offset_R1[chosen.start]),
        )
        return type(self)(
            requests=whole.requests(chosen),
            label_CA=self.label_CA[begin:end],
            user_R=self.user_R[chosen],
            nearest=nearest,
        )
