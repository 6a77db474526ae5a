"""Nearest events of a history for each candidate, by int8 vectors (TransAct V2, arXiv 2506.02267 §3).

The score of an event for a candidate is the float32 of the integer dot product of their vectors, times the
event's inverse norm in float32, `1 / sqrt(sum of squares)`, or 0 for a zero vector. The candidate's own norm
changes no order and is left out. Such a dot product is exact in float32, so scores are the same bits on every
processor. The higher score comes first; of equal scores, the later event.

Shapes: R requests, N events of all requests one after another (oldest first in each), V vectors, C candidates
of all requests one after another, E vector width, K events to find.
"""

from typing import NamedTuple

import torch
from torch import Tensor

LARGEST = 127
"""No component of a vector is larger, or smaller than its negative."""
RANGE = 0.65
"""The component of a unit vector that becomes `LARGEST` (TransAct V2 §3); a larger one is clamped."""
WIDEST = (1 << 24) // LARGEST**2
"""Components up to which float32 holds every dot product."""


class Nearest(NamedTuple):
    """Which events are nearest to each candidate."""

    event_CK: Tensor
    """Places among all N events (int64), nearest first; 0 behind the last valid one."""
    valid_C: Tensor
    """How many are valid (int64): K, or the length of the request's span if that is less."""


def quantised(vector_VE: Tensor) -> Tensor:
    """Return unit vectors as int8, `clamp(round(e / 0.65 * 127), -127, 127)` (TransAct V2 §3)."""
    return (vector_VE / RANGE * LARGEST).round().clamp(-LARGEST, LARGEST).to(torch.int8)


def spans(offset_R1: Tensor) -> Tensor:
    """Return where the events of each request begin and end, [R, 2]."""
    return torch.stack([offset_R1[:-1], offset_R1[1:]], dim=1)


def inverse_norms(vector_VE: Tensor) -> Tensor:
    """Return `1 / sqrt(sum of squares)` of int8 vectors as float32 [V], and 0 for zero vectors."""
    square_V = vector_VE.float().square().sum(-1)
    return torch.where(square_V > 0, 1.0 / square_V.sqrt(), 0.0)


def nearest_plain(
    vector_VE: Tensor,
    row_N: Tensor,
    span_R2: Tensor,
    candidate_CE: Tensor,
    candidate_offset_R1: Tensor,
    count: int,
) -> Nearest:
    """Return the `count` events of its request's span that are nearest to each candidate: the definition.

    Event n has the int8 vector `vector_VE[row_N[n]]`. Request r has the events from `span_R2[r, 0]` on and
    before `span_R2[r, 1]`, and the candidates from `candidate_offset_R1[r]` on and before the next one's.
    ValueError for vectors so wide that float32 does not hold their dot product.
    """
    check_width(vector_VE)
    event_CK = row_N.new_zeros(len(candidate_CE), count)
    first = candidate_offset_R1.tolist()
    for request, (begin, end) in enumerate(span_R2.tolist()):
        own = slice(first[request], first[request + 1])
        event_nE = vector_VE[row_N[begin:end]]
        score_cn = (candidate_CE[own].float() @ event_nE.float().T) * inverse_norms(event_nE)
        key_cn = ordered(score_cn, torch.arange(end - begin, device=row_N.device))
        found_ck = placed(key_cn.sort(dim=-1, descending=True).values[:, :count])
        event_CK[own, : found_ck.size(1)] = begin + found_ck
    return Nearest(event_CK, valid_counts(span_R2, candidate_offset_R1, count))


nearest = nearest_plain
"""What models call."""


def valid_counts(span_R2: Tensor, candidate_offset_R1: Tensor, count: int) -> Tensor:
    """Return how many of `count` events each candidate can have, int64 [C]."""
    length_R = (span_R2[:, 1] - span_R2[:, 0]).clamp(0, count)
    return length_R.repeat_interleave(candidate_offset_R1.diff())


def check_width(vector_VE: Tensor) -> None:
    """Raise ValueError for vectors whose dot product float32 may not hold."""
    if vector_VE.size(-1) > WIDEST:
        raise ValueError(f"vectors are {vector_VE.size(-1)} wide; allowed: 1 to {WIDEST}")


def ordered(score: Tensor, place: Tensor) -> Tensor:
    """Return int64 in the order of float32 `score` and, where it is equal, of `place` [0, 2^31)."""
    # Zero has two signs, which are equal as numbers and not as bits.
    bits = (score + 0.0).view(torch.int32)
    return ((bits ^ ((bits >> 31) & 0x7FFFFFFF)).long() << 32) | place


def placed(key: Tensor) -> Tensor:
    """Return the `place` of what `ordered` returned."""
    return key & 0xFFFFFFFF
