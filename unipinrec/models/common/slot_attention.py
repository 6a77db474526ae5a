"""Attention of a batch over slots of one memory, read in place by FlexAttention.

All positions of all slots stand one after another. A row sees the beginning of its slot, found by where the
slot begins and how far the row reaches; nothing is gathered, and lengths are data, so that one compiled
kernel and one captured graph serve histories of any length.

Shapes: B rows, H heads, D head width, Q queries of a row, K candidates, P positions of the memory,
I blocks of queries, J blocks of positions.
"""

import math
from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import AuxRequest, BlockMask, flex_attention

BLOCK = 128
"""Queries and positions of one tile of the kernel. Slots begin and end at multiples of it."""

Visible = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""Whether query q of row b and head h sees position p: `visible(b, h, q, p)`."""


def prefix_mask(begin_B: Tensor, reach_B: Tensor, queries: int, slot: int, positions: int) -> BlockMask:
    """Let every query see its slot's first `reach_B` positions: candidates, or a query behind a history.

    `slot` is the room of a slot, `positions` that of the whole memory.
    """

    def visible(b: Tensor, _h: Tensor, _q: Tensor, p: Tensor) -> Tensor:
        place = p - begin_B[b]
        return (place >= 0) & (place < reach_B[b])

    reach_BI = reach_B[:, None].expand(-1, _blocks(queries))
    return _block_mask(begin_B, reach_BI, reach_BI, visible, (queries, positions), slot)


def causal_mask(
    begin_B: Tensor, cached_B: Tensor, count_B: Tensor, queries: int, slot: int, positions: int
) -> BlockMask:
    """Let query q, which stands behind `cached_B + q` positions of its slot, see them and itself.

    Queries from `count_B` on are padding. No block is read for them that no other query reads: what stands
    behind the row's last position may be anything.
    """
    end_B = cached_B + count_B

    def visible(b: Tensor, _h: Tensor, q: Tensor, p: Tensor) -> Tensor:
        place = p - begin_B[b]
        return (place >= 0) & (place <= cached_B[b] + q) & (place < end_B[b])

    first_I = BLOCK * torch.arange(_blocks(queries), device=begin_B.device)
    is_padding_BI = first_I >= count_B[:, None]
    least_BI = (cached_B[:, None] + first_I + 1).masked_fill(is_padding_BI, 0)
    most_BI = torch.minimum(cached_B[:, None] + first_I + BLOCK, end_B[:, None])
    most_BI = most_BI.masked_fill(is_padding_BI, 0)
    return _block_mask(begin_B, least_BI, most_BI, visible, (queries, positions), slot)


def generation_mask(
    begin_B: Tensor, length_B: Tensor, scratch_B: Tensor, step_B: Tensor, slot: int, positions: int
) -> BlockMask:
    """Let the only query see `length_B` positions of its slot and `step_B + 1` of scratch memory."""

    def visible(b: Tensor, _h: Tensor, _q: Tensor, p: Tensor) -> Tensor:
        place, own = p - begin_B[b], p - scratch_B[b]
        return ((place >= 0) & (place < length_B[b])) | ((own >= 0) & (own <= step_B[b]))

    whole_B1, scratch_B1 = length_B[:, None] // BLOCK, scratch_B[:, None] // BLOCK
    ragged_B1 = length_B[:, None] % BLOCK > 0
    last_B1 = torch.where(ragged_B1, begin_B[:, None] // BLOCK + whole_B1, scratch_B1)
    partial_B12 = torch.stack([last_B1, scratch_B1], dim=-1)
    full_B1J = _from_begin(begin_B, torch.zeros_like(whole_B1), slot, positions)
    return _of_blocks((ragged_B1 + 1, partial_B12), (whole_B1, full_B1J), visible, (1, positions))


def attend(query_BHQD: Tensor, memory_2HPD: Tensor, mask: BlockMask) -> Tensor:
    """Return what the queries see of one layer's keys and values, [B, H, Q, D]."""
    attended: Tensor = flex_attention(query_BHQD, memory_2HPD[:1], memory_2HPD[1:], block_mask=mask)
    return attended


def attend_with_own(
    query_BHKD: Tensor, own_key_BHKD: Tensor, own_value_BHKD: Tensor, memory_2HPD: Tensor, mask: BlockMask
) -> Tensor:
    """Attend from each candidate to what its slot shows and itself, to no other (UniPinRec §1.4).

    The kernel tells the log of its softmax's sum, so that a candidate's own score joins afterwards: its key
    and value never enter the memory, which may be another process's.
    """
    history_BHKD, aux = flex_attention(
        query_BHKD,
        memory_2HPD[:1],
        memory_2HPD[1:],
        block_mask=mask,
        return_aux=AuxRequest(lse=True),
    )
    log_sum_BHK = cast(Tensor, aux.lse)
    scale = 1.0 / math.sqrt(query_BHKD.size(-1))
    own_BHK = (query_BHKD * own_key_BHKD).sum(-1, dtype=log_sum_BHK.dtype) * scale
    share_BHK1 = torch.sigmoid(own_BHK - log_sum_BHK).unsqueeze(-1).to(query_BHKD.dtype)
    return torch.lerp(history_BHKD, own_value_BHKD, share_BHK1)


def _block_mask(
    begin_B: Tensor,
    least_BI: Tensor,
    most_BI: Tensor,
    visible: Visible,
    sizes: tuple[int, int],
    slot: int,
) -> BlockMask:
    """Blocks before `least_BI` are seen whole by all queries of a block, those up to `most_BI` in part."""
    whole_BI = least_BI // BLOCK
    partial_BI = (most_BI + BLOCK - 1) // BLOCK - whole_BI
    partial_BIJ = _from_begin(begin_B, whole_BI, slot, sizes[1])
    full_BIJ = _from_begin(begin_B, torch.zeros_like(whole_BI), slot, sizes[1])
    return _of_blocks((partial_BI, partial_BIJ), (whole_BI, full_BIJ), visible, sizes)


def _from_begin(begin_B: Tensor, first_BI: Tensor, slot: int, positions: int) -> Tensor:
    """Blocks [B, I, J] of a slot from its block `first_BI` on; what lies behind the memory is never read."""
    block_J = torch.arange(slot // BLOCK, device=begin_B.device)
    block_BIJ = begin_B[:, None, None] // BLOCK + first_BI[:, :, None] + block_J
    return block_BIJ.clamp(max=positions // BLOCK - 1)


def _of_blocks(
    partial: tuple[Tensor, Tensor], full: tuple[Tensor, Tensor], visible: Visible, sizes: tuple[int, int]
) -> BlockMask:
    """The mask of counts [B, I] and indices [B, I, J]; all heads share it."""
    (partial_count, partial_index), (full_count, full_index) = (
        _listed(*blocks, positions=sizes[1]) for blocks in (partial, full)
    )
    return BlockMask.from_kv_blocks(
        partial_count,
        partial_index,
        full_count,
        full_index,
        BLOCK_SIZE=BLOCK,
        mask_mod=visible,
        seq_lengths=sizes,
        compute_q_blocks=False,
    )


def _listed(count_BI: Tensor, index_BIJ: Tensor, positions: int) -> tuple[Tensor, Tensor]:
    """For all heads, with room for every block of the memory; the kernel reads as many as are counted."""
    index_BIJ = F.pad(index_BIJ, (0, positions // BLOCK - index_BIJ.size(2)))
    return count_BI.to(torch.int32)[:, None].contiguous(), index_BIJ.to(torch.int32)[:, None].contiguous()


def _blocks(count: int) -> int:
    return -(-count // BLOCK)
