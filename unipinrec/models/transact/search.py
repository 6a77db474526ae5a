"""Nearest events of a history for each candidate, by int8 vectors (TransAct V2, arXiv 2506.02267 §3).

The score of an event for a candidate is the float32 of the integer dot product of their vectors, times the
event's inverse norm in float32, `1 / sqrt(sum of squares)`, or 0 for a zero vector. The candidate's own norm
changes no order and is left out. Such a dot product is exact in float32, so scores are the same bits on every
processor. The higher score comes first; of equal scores, the later event.

Shapes: R requests, N events of all requests one after another (oldest first in each), V vectors, C candidates
of all requests one after another, E vector width, K events to find; n events and c candidates of one request,
in b blocks of s events.
"""

import functools
import threading
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from unipinrec.models.transact.parts import on_one_thread, side_by_side

LARGEST = 127
"""No component of a vector is larger, or smaller than its negative."""
RANGE = 0.65
"""The component of a unit vector that becomes `LARGEST` (TransAct V2 §3); a larger one is clamped."""
WIDEST = (1 << 24) // LARGEST**2
"""Components up to which float32 holds every dot product."""
TOGETHER = 1 << 19
"""Scores that are kept at once, of 32 candidates for 16,000 events: 2 MB, which a processor's cache holds."""

RequestSearch = Callable[[Tensor, Tensor, Tensor, int], Tensor]
"""Places [c, K] of the nearest of one request's events to its candidates [c, E], for vectors [V, E] and the
events' rows [n] among them; K is at most n."""


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
    vectors, width = vector_VE.shape
    square_VE = _scratch.take(vectors, width, vector_VE.device).view(torch.float32)
    # A product adds up rows sooner than `sum` does, and integers as exactly.
    square_V = square_VE.copy_(vector_VE).square_() @ square_VE.new_ones(width)
    return torch.where(square_V > 0, 1.0 / square_V.sqrt(), 0.0)


def nearest(
    vector_VE: Tensor,
    row_N: Tensor,
    span_R2: Tensor,
    candidate_CE: Tensor,
    candidate_offset_R1: Tensor,
    count: int,
) -> Nearest:
    """Return the `count` events of its request's span that are nearest to each candidate.

    Event n has the int8 vector `vector_VE[row_N[n]]`. Request r has the events from `span_R2[r, 0]` on and
    before `span_R2[r, 1]`, and the candidates from `candidate_offset_R1[r]` on and before the next one's.
    ValueError for vectors so wide that float32 does not hold their dot product.
    """
    tensors = (vector_VE, row_N, span_R2, candidate_CE, candidate_offset_R1)
    with on_one_thread():
        return _each_request(_in_best_blocks, *tensors, count)


def nearest_plain(
    vector_VE: Tensor,
    row_N: Tensor,
    span_R2: Tensor,
    candidate_CE: Tensor,
    candidate_offset_R1: Tensor,
    count: int,
) -> Nearest:
    """Return the same as `nearest` by ordering all events: the definition."""
    return _each_request(_among_all, vector_VE, row_N, span_R2, candidate_CE, candidate_offset_R1, count)


def _each_request(
    search: RequestSearch,
    vector_VE: Tensor,
    row_N: Tensor,
    span_R2: Tensor,
    candidate_CE: Tensor,
    candidate_offset_R1: Tensor,
    count: int,
) -> Nearest:
    if vector_VE.size(1) > WIDEST:
        raise ValueError(f"vectors are {vector_VE.size(1)} wide; allowed: 1 to {WIDEST}")
    event_CK = row_N.new_zeros(len(candidate_CE), count)
    offset = candidate_offset_R1.tolist()
    for (begin, end), first, last in zip(span_R2.tolist(), offset, offset[1:], strict=False):
        if begin < end and first < last:
            most = min(count, end - begin)
            found_cK = search(vector_VE, row_N[begin:end], candidate_CE[first:last], most)
            event_CK[first:last, :most] = begin + found_cK
    length_R = (span_R2[:, 1] - span_R2[:, 0]).clamp(0, count)
    valid_C = length_R.repeat_interleave(candidate_offset_R1.diff(), output_size=len(candidate_CE))
    return Nearest(event_CK, valid_C)


def _among_all(vector_VE: Tensor, row_n: Tensor, candidate_cE: Tensor, count: int) -> Tensor:
    event_nE = vector_VE.index_select(0, row_n)
    score_cn = (candidate_cE.float() @ event_nE.float().T).add_(0.0).mul_(inverse_norms(event_nE))
    place_n = torch.arange(len(event_nE), device=event_nE.device)
    return _placed(_largest(_ordered(score_cn, place_n), count)).flip(1)


def _in_best_blocks(vector_VE: Tensor, row_n: Tensor, candidate_cE: Tensor, count: int) -> Tensor:
    """Choose `count` blocks of consecutive events by their best scores, then the best of their events.

    Blocks in the order of (best score, later first) hold the K nearest events within their first K: of K
    blocks before another one, each has an event that comes before all of that one's.
    """
    length = len(row_n)
    # So many blocks are ordered as events of the chosen ones: all in all the fewest.
    size = round((length / count) ** 0.5)
    if size < 2:
        return _among_all(vector_VE, row_n, candidate_cE, count)
    blocks = -(-length // size)
    # A block's events stand apart, so that maxima are taken of many blocks by one instruction.
    row_n = F.pad(row_n, (0, blocks * size - length)).view(blocks, size).T.flatten()
    event_nE = vector_VE.index_select(0, row_n)
    inverse_norm_n, event_En = inverse_norms(event_nE), _right_side(event_nE)
    block_b = torch.arange(blocks, device=row_n.device)
    within_s1 = torch.arange(size, device=row_n.device)[:, None]

    def places(part_cE: Tensor) -> Tensor:
        score_csb = _products(part_cE, event_En).mul_(inverse_norm_n).view(-1, size, blocks)
        if len(row_n) > length:
            # Padding stands at the end of the last block.
            score_csb[:, length - (blocks - 1) * size :, -1] = -torch.inf
        block_ck = _placed(_largest(_ordered(score_csb.amax(1), block_b), count))
        score_csk = score_csb.gather(2, block_ck[:, None].expand(-1, size, -1))
        key_csk = _ordered(score_csk, block_ck.mul(size)[:, None] + within_s1)
        return _placed(_largest(key_csk.flatten(1), count)).flip(1)

    parts = candidate_cE.split(max(TOGETHER // len(row_n), 1))
    return torch.cat(side_by_side(places, ((part_cE,) for part_cE in parts)))


def _right_side(event_nE: Tensor) -> Tensor:
    """Return event vectors [E, n] as `_products` wants them."""
    # The strides of vectors of one component say nothing, and the integer product takes them at their word.
    if event_nE.device.type == "cpu" and event_nE.size(1) > 1 and multiplies_integers():
        return event_nE.T
    return event_nE.float().T


def _products(candidate_cE: Tensor, event_En: Tensor) -> Tensor:
    """Return all dot products as float32 [c, n], which stay until the next ones of this thread."""
    integer_cn = _scratch.take(len(candidate_cE), event_En.size(1), event_En.device)
    product_cn = integer_cn.view(torch.float32)
    if event_En.dtype == torch.int8:
        return product_cn.copy_(torch._int_mm(candidate_cE, event_En, out=integer_cn))
    # Zero has two signs, which are equal as numbers and not as bits; adding leaves the positive one.
    return torch.mm(candidate_cE.float(), event_En, out=product_cn).add_(0.0)


class _Scratch(threading.local):
    """Memory of a thread, which each of its searches writes to: fresh pages cost more than products."""

    def __init__(self) -> None:
        self._memory = torch.empty(0, dtype=torch.int32)

    def take(self, rows: int, columns: int, device: torch.device) -> Tensor:
        """Return integers of any value, as large as the largest search so far needs."""
        if self._memory.numel() < rows * columns or self._memory.device != device:
            # What inference mode makes could not be written to outside of it.
            with torch.inference_mode(False):
                self._memory = torch.empty(rows * columns, dtype=torch.int32, device=device)
        return self._memory[: rows * columns].view(rows, columns)


_scratch = _Scratch()


@functools.cache
def multiplies_integers() -> bool:
    """Return whether int8 products are exact here.

    They take half the time of float32. Where a processor has no instruction for them (VNNI), oneDNN adds
    pairs in 16 bits, which saturate.
    """
    generator = torch.Generator().manual_seed(0)
    left, right = (
        torch.randint(-LARGEST, LARGEST + 1, shape, generator=generator, dtype=torch.int8)
        for shape in ((64, 32), (32, 256))
    )
    return torch.backends.mkldnn.is_available() and torch.equal(
        torch._int_mm(left, right).float(), left.float() @ right.float()
    )


def _ordered(score: Tensor, place: Tensor) -> Tensor:
    """Return int64 in the order of float32 `score` and, where it is equal, of `place` [0, 2^31)."""
    bits = score.view(torch.int32)
    # Negative numbers have the order of their bits reversed.
    order = (bits >> 31).bitwise_and_(0x7FFFFFFF).bitwise_xor_(bits)
    return torch.add(place, order, alpha=1 << 32)


def _largest(key_cX: Tensor, count: int) -> Tensor:
    """Return the `count` largest of each candidate's keys, ascending. Keys lose their order."""
    if key_cX.device.type != "cpu":
        return key_cX.topk(count).values.flip(1)
    # NumPy sorts all of them, several by one instruction, in half of the time that `topk` takes.
    key_cX.numpy().sort(axis=1)
    return key_cX[:, -count:]


def _placed(key: Tensor) -> Tensor:
    """Return the `place` of what `_ordered` returned."""
    return key & 0xFFFFFFFF
