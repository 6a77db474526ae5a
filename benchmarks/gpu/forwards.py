"""Ranking forwards that the server does not run: what reading slots in place is held against.

Each takes a batch's tensors on the device (`Batch.fields`) to probabilities [B, K, A] in float32.

Shapes: B rows, N positions of a history (BOS first), K candidates, T = N + K, X positions of all rows,
A actions, H heads, D head width, C hidden width, P positions of the slots' memory.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from ensemble.executors.cuda.parts import Parts
from ensemble.executors.engine import EVENT_FIELDS
from ensemble.kv.cuda.device_storage import DeviceStorage
from unipinrec.models.common.slotted import Compile
from unipinrec.models.common.trunk import Block
from unipinrec.models.unified.both_heads import BothHeads

Fields = Mapping[str, Tensor]
Attention = Literal["sdpa", "flex"]
Mode = Literal["regional", "whole"]
"""`regional` compiles tokens, one layer and the head, `whole` the forward as one graph."""


class Baseline:
    """Makes forwards of batches with N positions and K candidates, compiled in one mode."""

    def __init__(self, parts: Parts, sizes: tuple[int, int], mode: Mode) -> None:
        """`sizes` is N and K."""
        model = parts.model
        self._blocks, self._norm = model.trunk.blocks, model.trunk.norm
        self._items = parts.items
        self._sizes = sizes
        self._whole: Compile = parts.compiled if mode == "whole" else eager
        self._regional: Compile = parts.compiled if mode == "regional" else eager
        self._packed = self._regional(model.tokenizer.packed)
        self._candidate = self._regional(model.tokenizer.candidates)
        self._affinity = self._regional(model.ranking_head.affinity.of_requests)
        self._heads = self._regional(BothHeads(model))
        self._device = parts.device

    def prefill(self, attention: Attention) -> Callable[[Fields], Tensor]:
        """Return the forward of [history || candidates] through every layer, as without a cache (UniPinRec
        §1.4), with a dense mask for `sdpa`. The head reads candidates alone."""
        layer = self._regional(_sdpa_layer if attention == "sdpa" else _flex_layer)
        mask: Any = ranking_mask(*self._sizes).to(self._device)
        if attention == "flex":
            rule, total = _ranking_rule(self._sizes[0]), sum(self._sizes)
            mask = create_block_mask(rule, None, None, total, total, str(self._device))

        def forward(fields: Fields) -> Tensor:
            token_BTC = torch.cat([self._history_tokens(fields), self._candidate_tokens(fields)], dim=1)
            for block in self._blocks:
                token_BTC = layer(block, token_BTC, mask)
            return self._probabilities(token_BTC[:, self._sizes[0] :], fields)

        return self._whole(forward)

    def copied_decode(self, storage: DeviceStorage, rows: int) -> Callable[[Fields], Tensor]:
        """Return the forward of candidates over a storage's first slots, which each layer copies (UniPinRec
        §1.8) into a cache [B, H, N + K, D] with a dense mask."""
        layer, memory_L2HPD, positions = self._regional(_copying_layer), storage.values_L2HPD, self._sizes[0]
        mask_KT = ranking_mask(*self._sizes)[positions:].contiguous().to(self._device)
        begin_B = torch.tensor([storage.map.begin(slot) for slot in range(rows)])
        place_X = (begin_B[:, None] + torch.arange(positions)).flatten().to(self._device)

        def forward(fields: Fields) -> Tensor:
            token_BKC = self._candidate_tokens(fields)
            for block, memory_2HPD in zip(self._blocks, memory_L2HPD, strict=True):
                token_BKC = layer(block, token_BKC, memory_2HPD, place_X, mask_KT)
            return self._probabilities(token_BKC, fields)

        return self._whole(forward)

    def _history_tokens(self, fields: Fields) -> Tensor:
        """Tokens [B, N, C]."""
        item_X, actions_X, *rest = (fields[name].flatten() for name in (*EVENT_FIELDS, "position"))
        masked_X = torch.zeros_like(item_X, dtype=torch.bool)
        token_XC: Tensor = self._packed(self._items(item_X), actions_X, masked_X, *rest)
        return token_XC.view(*fields["item"].shape, -1)

    def _candidate_tokens(self, fields: Fields) -> Tensor:
        """Tokens [B, K, C]."""
        vector_BKE = self._items(fields["candidate"])
        time_B1, surface_B1 = fields["time"][:, None], fields["asked_surface"][:, None]
        token_BKC: Tensor = self._candidate(vector_BKE, time_B1, surface_B1)
        return token_BKC

    def _probabilities(self, token_BKC: Tensor, fields: Fields) -> Tensor:
        candidate_BKE, time_B = self._items(fields["candidate"]), fields["time"]
        # Position 0 is BOS.
        item_BN, actions_BN, timestamp_BN = (fields[name][:, 1:] for name in ("item", "actions", "timestamp"))
        nothing_BN = torch.zeros_like(item_BN, dtype=torch.bool)
        affinity_BKF = self._affinity(
            candidate_BKE, time_B, self._items(item_BN), actions_BN, timestamp_BN, nothing_BN
        )
        columns = (candidate_BKE, fields["candidate"], time_B, fields["asked_surface"], fields["hidden"])
        probability_BKA: Tensor = self._heads(self._norm(token_BKC), affinity_BKF, *columns)
        return probability_BKA.float()


def ranking_mask(positions: int, candidates: int) -> Tensor:
    """Return who sees whom of T positions, [T, T]: events see earlier ones, candidates all and themselves."""
    place_T = torch.arange(positions + candidates)
    return _ranking_rule(positions)(place_T, place_T, place_T[:, None], place_T)


def _ranking_rule(positions: int) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    def visible(_b: Tensor, _h: Tensor, q: Tensor, p: Tensor) -> Tensor:
        return (p <= q) & ((p < positions) | (p == q))

    return visible


def eager(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function as it is: nothing is compiled."""
    return function


def _sdpa_layer(block: Block, token_BTC: Tensor, mask_TT: Tensor) -> Tensor:
    query, key, value = block.project(token_BTC)
    return block.finish(token_BTC, F.scaled_dot_product_attention(query, key, value, attn_mask=mask_TT))


def _flex_layer(block: Block, token_BTC: Tensor, mask: Any) -> Tensor:
    query, key, value = block.project(token_BTC)
    attended: Any = flex_attention(query, key, value, block_mask=mask)
    return block.finish(token_BTC, attended)


def _copying_layer(
    block: Block, token_BKC: Tensor, memory_2HPD: Tensor, place_X: Tensor, mask_KT: Tensor
) -> Tensor:
    query, own_key, own_value = block.project(token_BKC)
    past_2HBND = memory_2HPD.index_select(2, place_X).unflatten(2, (token_BKC.size(0), -1))
    past_key, past_value = past_2HBND.transpose(1, 2).unbind(0)
    key = torch.cat([past_key, own_key], dim=2)
    value = torch.cat([past_value, own_value], dim=2)
    return block.finish(token_BKC, F.scaled_dot_product_attention(query, key, value, attn_mask=mask_KT))
