"""Requests of random users with slates, as the second ranker takes them.

Shapes: R requests, N rows of a sequence of all requests, C candidates, A actions.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from unipinrec.models.transact.batch import PackedEvents, RankingBatch, RequestBatch

ITEMS, ACTIONS, SURFACES = 50, 3, 2
NOW = 1_700_000_000
LAST_BITS = 1e-5
"""Of float32 through two layers."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """What one request has."""

    events: int
    impressions: int
    candidates: int


MIXED = (Sizes(5, 9, 4), Sizes(0, 0, 3), Sizes(40, 2, 6), Sizes(1, 30, 1), Sizes(12, 0, 5), Sizes(3, 3, 2))


def slates(sizes: Sequence[Sizes] = MIXED, seed: int = 0) -> RankingBatch:
    """Requests of those sizes; every user's last events are spread over two days before the request."""
    draw = np.random.default_rng(seed)
    requests, candidates = len(sizes), sum(size.candidates for size in sizes)

    def rows(lengths: Sequence[int], actions: tuple[int, int]) -> PackedEvents:
        total = sum(lengths)
        age = [np.sort(draw.integers(1, 2 * 86_400, size=length))[::-1] for length in lengths]
        return PackedEvents(
            item_row_N=torch.from_numpy(draw.integers(ITEMS, size=total)),
            actions_N=torch.from_numpy(draw.integers(*actions, size=total)),
            surface_N=torch.from_numpy(draw.integers(SURFACES, size=total)),
            timestamp_N=NOW - torch.from_numpy(np.concatenate([np.empty(0, np.int64), *age])),
            offset_R1=torch.tensor(np.cumsum([0, *lengths])),
        )

    def normal(*shape: int) -> Tensor:
        return torch.from_numpy(draw.normal(size=shape).astype(np.float32))

    return RankingBatch(
        requests=RequestBatch(
            events=rows([size.events for size in sizes], (1, 2**ACTIONS)),
            impressions=rows([size.impressions for size in sizes], (0, 1)),
            request_time_R=torch.full((requests,), NOW),
            request_surface_R=torch.from_numpy(draw.integers(SURFACES, size=requests)),
            user_rate_RA=normal(requests, ACTIONS),
            user_shown_R=normal(requests).abs(),
            candidate_item_C=torch.from_numpy(draw.integers(ITEMS, size=candidates)),
            candidate_offset_R1=torch.tensor(np.cumsum([0, *(size.candidates for size in sizes)])),
            item_rate_CA=normal(candidates, ACTIONS),
            item_shown_C=normal(candidates).abs(),
            attribute_rate_CA=normal(candidates, ACTIONS),
            attribute_shown_C=normal(candidates).abs(),
        ),
        label_CA=torch.from_numpy((draw.random((candidates, ACTIONS)) < 0.4).astype(np.float32)),
        user_R=torch.arange(requests),
    )


def chosen(requests: RequestBatch, candidate_c: Sequence[int]) -> RequestBatch:
    """The requests with some candidates, in the order given; those of a request are next to one another."""
    index_c = torch.tensor(list(candidate_c), dtype=torch.long)
    count_R = torch.bincount(requests.request_of_candidate[index_c], minlength=len(requests.request_time_R))
    columns = ("candidate_item_C", "item_rate_CA", "item_shown_C", "attribute_rate_CA", "attribute_shown_C")
    return replace(
        requests,
        candidate_offset_R1=torch.cat([count_R.new_zeros(1), count_R.cumsum(0)]),
        **{name: getattr(requests, name)[index_c] for name in columns},
    )


def repeated(requests: RequestBatch) -> RequestBatch:
    """The same candidates, each with a request of its own: what a batch without deduplication would hold."""
    request_C = requests.request_of_candidate

    def rows(packed: PackedEvents) -> PackedEvents:
        offsets = packed.offset_R1.tolist()
        index_N = torch.cat([torch.arange(offsets[row], offsets[row + 1]) for row in request_C.tolist()])
        length_C = packed.lengths[request_C]
        columns = ("item_row_N", "actions_N", "surface_N", "timestamp_N")
        return PackedEvents(
            offset_R1=torch.cat([length_C.new_zeros(1), length_C.cumsum(0)]),
            **{name: getattr(packed, name)[index_N] for name in columns},
        )

    columns = ("request_time_R", "request_surface_R", "user_rate_RA", "user_shown_R")
    return replace(
        requests,
        events=rows(requests.events),
        impressions=rows(requests.impressions),
        candidate_offset_R1=torch.arange(len(request_C) + 1),
        **{name: getattr(requests, name)[request_C] for name in columns},
    )


def without_events(requests: RequestBatch, left_out_N: Tensor) -> RequestBatch:
    """The requests as if some of their events had not been."""
    events = requests.events
    request_N = torch.repeat_interleave(events.lengths)
    length_R = torch.bincount(request_N[~left_out_N], minlength=len(events.lengths))
    columns = ("item_row_N", "actions_N", "surface_N", "timestamp_N")
    kept = PackedEvents(
        offset_R1=torch.cat([length_R.new_zeros(1), length_R.cumsum(0)]),
        **{name: getattr(events, name)[~left_out_N] for name in columns},
    )
    return replace(requests, events=kept)
