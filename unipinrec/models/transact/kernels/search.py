"""The nearest events of each candidate on a GPU, as `transact/search.py` defines them.

A first kernel scores all events and keeps the best score of every block of consecutive events. Blocks in the
order of (best score, later first) hold the K nearest events within their first K: of K blocks before another
one, each has an event that comes before all of that one's. So a second kernel takes each candidate's K best
blocks and orders their events alone. No score but a block's best is written to memory.

Shapes: R requests, N events, V vectors, C candidates, E vector width, K events to find, B blocks of S events;
lower-case letters are parts of them.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from unipinrec.models.transact.search import Nearest

WIDTHS = (32, 64, 128, 256)
SPAN = 16
"""Consecutive events in a block."""
EVENTS, CANDIDATES = 256, 16
"""Scored together by one program, which keeps its events and takes one group of candidates after another."""
PROGRAMS = 528
"""What fills a GPU: where events are fewer, more programs share a request's candidates."""
WARPS = 4


class SearchKernel:
    """A search for at most so many requests, candidates and events of one request, with memory of its own.

    Requests, candidates and lengths are data, so one captured CUDA graph serves all of them.
    """

    def __init__(
        self, *, requests: int, candidates: int, events: int, count: int, device: torch.device
    ) -> None:
        """`count` is the number of events to find for each candidate."""
        self._requests = requests
        self._events = events
        self._count = count
        self._key_CB = torch.empty(candidates, -(-events // SPAN), dtype=torch.int64, device=device)
        self._event_CK = torch.zeros(candidates, count, dtype=torch.int64, device=device)
        self._valid_C = torch.zeros(candidates, dtype=torch.int64, device=device)

    def __call__(
        self,
        vector_VE: Tensor,
        row_N: Tensor,
        span_R2: Tensor,
        candidate_CE: Tensor,
        candidate_offset_R1: Tensor,
    ) -> Nearest:
        """Return what `nearest_plain` returns for the same tensors, valid until the next call.

        A request with more events than announced is searched in its latest ones. Candidates that belong to
        no request have none. ValueError for another shape than announced.
        """
        width = vector_VE.size(1)
        if width not in WIDTHS:
            raise ValueError(f"vectors are {width} wide; allowed: {WIDTHS}")
        if (len(span_R2), len(candidate_CE)) != (self._requests, len(self._key_CB)):
            raise ValueError(
                f"there are {len(span_R2)} requests and {len(candidate_CE)} candidates; "
                f"allowed: {self._requests} and {len(self._key_CB)}"
            )
        blocks = self._key_CB.size(1)
        chunks = -(-self._events // EVENTS)
        shares = min(-(-len(candidate_CE) // CANDIDATES), -(-PROGRAMS // (chunks * self._requests)))
        given = (vector_VE, row_N, span_R2, candidate_CE, candidate_offset_R1)
        best_of_blocks_kernel[(chunks, self._requests, shares)](
            *given,
            self._key_CB,
            blocks,
            WIDTH=width,
            SPAN=SPAN,
            EVENTS=EVENTS,
            CANDIDATES=CANDIDATES,
            num_warps=WARPS,
        )
        # Triton's selection of a single value does not compile.
        within = max(2, triton.next_power_of_2(self._count))
        best_events_kernel[(len(candidate_CE),)](
            *given,
            self._key_CB,
            self._event_CK,
            self._valid_C,
            self._requests,
            blocks,
            self._count,
            WIDTH=width,
            SPAN=SPAN,
            REQUESTS=triton.next_power_of_2(self._requests),
            BLOCKS=max(triton.next_power_of_2(blocks), within),
            COUNT=within,
            num_warps=2 * WARPS,
        )
        return Nearest(self._event_CK, self._valid_C)


@triton.jit
def best_of_blocks_kernel(
    vector_ptr,
    row_ptr,
    span_ptr,
    candidate_ptr,
    candidate_offset_ptr,
    key_ptr,
    blocks,
    WIDTH: tl.constexpr,
    SPAN: tl.constexpr,
    EVENTS: tl.constexpr,
    CANDIDATES: tl.constexpr,
):
    """Score some events of a request for a share of its candidates, and keep each block's best."""
    chunk, request, share = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    begin, length = _span(span_ptr, request, blocks * SPAN, True)
    if chunk * EVENTS < length:
        place_n = chunk * EVENTS + tl.arange(0, EVENTS)
        real_n = place_n < length
        row_n = tl.load(row_ptr + begin + place_n, mask=real_n, other=0).to(tl.int64)
        part_e = tl.arange(0, WIDTH)
        vector_ne = tl.load(
            vector_ptr + row_n[:, None] * WIDTH + part_e[None, :], mask=real_n[:, None], other=0
        )
        inverse_norm_n = _inverse_norm(vector_ne)
        block_b = chunk * (EVENTS // SPAN) + tl.arange(0, EVENTS // SPAN)
        first = tl.load(candidate_offset_ptr + request) + share * CANDIDATES
        last = tl.load(candidate_offset_ptr + request + 1)
        for candidate in range(first, last, tl.num_programs(2) * CANDIDATES):
            place_c = candidate + tl.arange(0, CANDIDATES)
            asked_c = place_c < last
            candidate_ec = tl.load(
                candidate_ptr + place_c[None, :] * WIDTH + part_e[:, None], mask=asked_c[None, :], other=0
            )
            product_nc = tl.dot(vector_ne, candidate_ec, out_dtype=tl.int32)
            score_nc = tl.where(
                real_n[:, None], product_nc.to(tl.float32) * inverse_norm_n[:, None], float("-inf")
            )
            best_bc = tl.max(tl.reshape(score_nc, [EVENTS // SPAN, SPAN, CANDIDATES]), 1)
            key_bc = _ordered(best_bc, block_b[:, None])
            written_bc = (block_b < blocks)[:, None] & asked_c[None, :]
            tl.store(key_ptr + place_c[None, :] * blocks + block_b[:, None], key_bc, mask=written_bc)


@triton.jit
def best_events_kernel(
    vector_ptr,
    row_ptr,
    span_ptr,
    candidate_ptr,
    candidate_offset_ptr,
    key_ptr,
    event_ptr,
    valid_ptr,
    requests,
    blocks,
    count,
    WIDTH: tl.constexpr,
    SPAN: tl.constexpr,
    REQUESTS: tl.constexpr,
    BLOCKS: tl.constexpr,
    COUNT: tl.constexpr,
):
    """Find one candidate's nearest events within its best blocks."""
    lowest: tl.constexpr = -0x7FFFFFFFFFFFFFFF
    candidate = tl.program_id(0).to(tl.int64)
    request_r = tl.arange(0, REQUESTS)
    is_request_r = request_r < requests
    after_r = tl.load(candidate_offset_ptr + 1 + request_r, mask=is_request_r, other=0)
    request = tl.sum((is_request_r & (after_r <= candidate)).to(tl.int32), 0)
    is_asked = request < requests
    begin, length = _span(span_ptr, request, blocks * SPAN, is_asked)

    block_b = tl.arange(0, BLOCKS)
    has_events_b = block_b * SPAN < length
    key_b = tl.load(key_ptr + candidate * blocks + block_b, mask=has_events_b, other=lowest)
    key_k = tl.topk(key_b, COUNT)
    place_ks = (key_k & 0xFFFFFFFF)[:, None] * SPAN + tl.arange(0, SPAN)[None, :]
    place_n = tl.reshape(tl.where((key_k != lowest)[:, None], place_ks, length), [COUNT * SPAN])
    real_n = place_n < length
    row_n = tl.load(row_ptr + begin + place_n, mask=real_n, other=0).to(tl.int64)
    part_e = tl.arange(0, WIDTH)
    vector_ne = tl.load(vector_ptr + row_n[:, None] * WIDTH + part_e[None, :], mask=real_n[:, None], other=0)
    candidate_e = tl.load(candidate_ptr + candidate * WIDTH + part_e)
    product_n = tl.sum(vector_ne.to(tl.int32) * candidate_e.to(tl.int32)[None, :], 1)
    score_n = product_n.to(tl.float32) * _inverse_norm(vector_ne)
    found_k = tl.topk(tl.where(real_n, _ordered(score_n, place_n), lowest), COUNT) & 0xFFFFFFFF

    place_k = tl.arange(0, COUNT)
    event_k = tl.where(place_k < length, begin + found_k, 0)
    tl.store(event_ptr + candidate * count + place_k, event_k, mask=place_k < count)
    tl.store(valid_ptr + candidate, tl.minimum(length, count))


@triton.jit
def _span(span_ptr, request, most, is_there):
    """Where a request's latest `most` events begin, and how many there are."""
    begin = tl.load(span_ptr + 2 * request, mask=is_there, other=0)
    end = tl.load(span_ptr + 2 * request + 1, mask=is_there, other=0)
    begin = tl.maximum(begin, end - most)
    return begin, end - begin


@triton.jit
def _inverse_norm(vector_ne):
    """`search.inverse_norms`, with the roundings that IEEE 754 asks for."""
    square_n = tl.sum(vector_ne.to(tl.int32) * vector_ne.to(tl.int32), 1)
    root_n = tl.sqrt_rn(square_n.to(tl.float32))
    return tl.where(square_n > 0, tl.div_rn(1.0, tl.where(square_n > 0, root_n, 1.0)), 0.0)


@triton.jit
def _ordered(score, place):
    """`search.ordered`."""
    # Adding 0 would not be enough to join both zeros: compilers may drop it. Products of integers have one.
    bits = score.to(tl.int32, bitcast=True)
    return ((bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.int64) << 32) | place.to(tl.int64)
