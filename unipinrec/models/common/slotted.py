"""The trunk's passes over slots of one memory, with shapes that do not depend on what the rows hold.

Every row is padded to the same number of tokens, and where it stands is data: a pass of one shape can be
compiled and captured once. `Trunk.extended` and `Trunk.candidates_over_slots` do the same over exact lengths.

Shapes: B rows, N new tokens of a row, K candidates, L layers, H heads, D head width, P positions of the
memory, C hidden width, X tokens of all rows.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from unipinrec.models.common.slot_attention import (
    BLOCK,
    attend,
    attend_with_own,
    causal_mask,
    generation_mask,
    prefix_mask,
)
from unipinrec.models.common.trunk import Block, Trunk

Compile = Callable[[Callable[..., Any]], Callable[..., Any]]


class SlottedTrunk:
    """A trunk over a memory [L, 2, H, P, D] that is slots of equal room, one after another.

    Tokens that are padding are written to the memory's last block, the null block.
    """

    def __init__(
        self, trunk: Trunk, memory_L2HPD: Tensor, slot: int, compiled: Compile = lambda function: function
    ) -> None:
        """`slot` is the room of a slot, a multiple of `BLOCK`; `compiled` makes parts of a layer faster."""
        self._trunk = trunk
        self._memory_L2HPD = memory_L2HPD
        self._slot = slot
        self._positions = memory_L2HPD.size(3)
        self._project = compiled(_project)
        self._attend = compiled(_attend)
        self._score = compiled(_score)

    def continued(self, token_BNC: Tensor, begin_B: Tensor, cached_B: Tensor, count_B: Tensor) -> Tensor:
        """Run causally over `count_B` tokens of each row behind the `cached_B` positions of its slot.

        Their keys and values are written into the slot. Returns hidden states [B, C] after the last of them.
        """
        new, sizes = token_BNC.size(1), (self._slot, self._positions)
        new_N = torch.arange(new, device=begin_B.device)
        padding_N = self._positions - BLOCK + new_N % BLOCK
        place_BN = torch.where(new_N < count_B[:, None], (begin_B + cached_B)[:, None] + new_N, padding_N)
        self._clear_behind(begin_B + cached_B + count_B)
        mask = causal_mask(begin_B, cached_B, count_B, new, *sizes)
        last_mask = prefix_mask(begin_B, cached_B + count_B, 1, *sizes)
        return self._through(token_BNC, place_BN.flatten(), count_B - 1, mask, last_mask)

    def generated(
        self, token_B1C: Tensor, begin_B: Tensor, length_B: Tensor, scratch_B: Tensor, step_B: Tensor
    ) -> Tensor:
        """Run over one token behind `length_B` positions of its slot and `step_B` of scratch memory.

        Its keys and values go into the scratch block that begins at `scratch_B`: slots stay as they are.
        Returns hidden states [B, C].
        """
        place_B = scratch_B + step_B
        self._clear_behind(place_B + 1)
        mask = generation_mask(begin_B, length_B, scratch_B, step_B, self._slot, self._positions)
        return self._through(token_B1C, place_B, torch.zeros_like(begin_B), mask, mask)

    def candidates(self, token_BKC: Tensor, begin_B: Tensor, length_B: Tensor) -> Tensor:
        """Return hidden states [B, K, C] of candidates over the first `length_B` positions of each slot."""
        mask = prefix_mask(begin_B, length_B, token_BKC.size(1), self._slot, self._positions)
        for block, memory_2HPD in zip(self._trunk.blocks, self._memory_L2HPD, strict=True):
            token_BKC = self._score(block, token_BKC, memory_2HPD, mask)
        return self._trunk.norm(token_BKC)

    def _through(
        self, token_BNC: Tensor, place_X: Tensor, last_B: Tensor, mask: BlockMask, last_mask: BlockMask
    ) -> Tensor:
        """All layers; of the last one nothing but keys and values is computed for any but the last token."""
        *inner, (outer, outer_2HPD) = zip(self._trunk.blocks, self._memory_L2HPD, strict=True)
        for block, memory_2HPD in inner:
            query, both_2HXD = self._project(block, token_BNC)
            # Outside what is compiled, where it would risk a copy of the whole memory.
            memory_2HPD.index_copy_(2, place_X, both_2HXD)
            token_BNC = self._attend(block, token_BNC, query, memory_2HPD, mask)
        outer_2HPD.index_copy_(2, place_X, _side_by_side(*outer.keys_and_values(token_BNC)))
        token_B1C = token_BNC.gather(1, last_B[:, None, None].expand(-1, 1, token_BNC.size(2)))
        token_B1C = self._attend(outer, token_B1C, outer.queries(token_B1C), outer_2HPD, last_mask)
        return self._trunk.norm(token_B1C[:, 0])

    def _clear_behind(self, end_B: Tensor) -> None:
        """Zero what stands behind a row's end in the block of its last position.

        The kernel reads whole blocks, and a number that is not finite would survive its weight of 0: no user
        may spoil a slot for the next one.
        """
        behind_BX = end_B[:, None] + torch.arange(BLOCK - 1, device=end_B.device)
        inside_BX = behind_BX // BLOCK == (end_B[:, None] - 1) // BLOCK
        place_X = torch.where(inside_BX, behind_BX, self._positions - 1).flatten()
        self._memory_L2HPD.index_fill_(3, place_X, 0)


def _project(block: Block, token_BNC: Tensor) -> tuple[Tensor, Tensor]:
    """Queries [B, H, N, D], and keys and values [2, H, X, D] as one layer of the memory holds them."""
    query, key, value = block.project(token_BNC)
    return query, _side_by_side(key, value)


def _side_by_side(key_BHND: Tensor, value_BHND: Tensor) -> Tensor:
    return torch.stack([key_BHND, value_BHND]).transpose(1, 2).flatten(2, 3)


def _attend(
    block: Block, token_BNC: Tensor, query_BHND: Tensor, memory_2HPD: Tensor, mask: BlockMask
) -> Tensor:
    """What tokens become that see the memory, their own keys and values included."""
    return block.finish(token_BNC, attend(query_BHND, memory_2HPD, mask))


def _score(block: Block, token_BKC: Tensor, memory_2HPD: Tensor, mask: BlockMask) -> Tensor:
    """One layer over candidates, which leave nothing behind."""
    query, key, value = block.project(token_BKC)
    return block.finish(token_BKC, attend_with_own(query, key, value, memory_2HPD, mask))
