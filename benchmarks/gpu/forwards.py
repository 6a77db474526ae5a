"""Ranking forwards that the server does not run: what reading slots in place is held against.

Each takes a batch's tensors on the device to probabilities: tokens, trunk and ranking head.

Shapes: B rows, N positions of a history (BOS first), K candidates, T = N + K, X positions of all rows,
A actions, H heads, D head width, C hidden width, P positions of the slots' memory.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from ensemble.executors.cuda.item_table import ItemTable
from ensemble.kv.cuda.device_storage import DeviceStorage
from unipinrec.models.common.slotted import Compile
from unipinrec.models.common.trunk import Block
from unipinrec.models.unified.served import ServedModel

Fields = Mapping[str, Tensor]
Mode = Literal["regional", "whole"]
"""`regional` compiles tokens, one layer and the head, `whole` the forward as one graph."""

Attention = Literal["sdpa", "flex"]


class Prefill:
    """All of [history || candidates] through every layer, as without any cache (UniPinRec §1.4).

    Every layer computes every position, as the paper's baseline does; the head reads candidates alone.
    """

    def __init__(
        self, model: ServedModel, items: ItemTable, sizes: tuple[int, int], attention: Attention
    ) -> None:
        """`sizes` is N and K."""
        self._model = model
        self._items = items
        device = model.tokenizer.bos.device
        self._mask: Any
        if attention == "sdpa":
            self._layer: Callable[..., Tensor] = _sdpa_layer
            self._mask = ranking_mask(*sizes).to(device)
        else:
            self._layer = _flex_layer
            total = sum(sizes)
            self._mask = create_block_mask(_ranking_rule(sizes[0]), None, None, total, total, str(device))
        self._parts = _Parts(model, lambda function: function)
        self._call: Callable[[Fields], Tensor] = self._forward

    def compile(self, compiled: Compile, mode: Mode) -> "Prefill":
        """Make it faster, in place, and return it."""
        if mode == "whole":
            self._call = compiled(self._forward)
        else:
            self._parts = _Parts(self._model, compiled)
            self._layer = compiled(self._layer)
        return self

    def __call__(self, fields: Fields) -> Tensor:
        """Probabilities [B, K, A] in float32."""
        return self._call(fields)

    def _forward(self, fields: Fields) -> Tensor:
        history_BNC = self._parts.history(self._items, fields)
        token_BTC = torch.cat([history_BNC, self._parts.candidates(self._items, fields)], dim=1)
        for block in self._model.trunk.blocks:
            token_BTC = self._layer(block, token_BTC, self._mask)
        return self._parts.probabilities(token_BTC[:, history_BNC.size(1) :])


class CopiedDecode:
    """Candidates over keys and values that each layer first copies out of the slots, as in UniPinRec §1.8.

    The copy and the candidates' own keys and values become one cache [B, H, N + K, D] with a dense mask.
    """

    def __init__(
        self, model: ServedModel, items: ItemTable, storage: DeviceStorage, sizes: tuple[int, int]
    ) -> None:
        """`sizes` is N and K; every slot holds N positions."""
        self._model = model
        self._items = items
        self._memory_L2HPD = storage.values_L2HPD
        self._map = storage.map
        self._positions = sizes[0]
        device = model.tokenizer.bos.device
        self._mask_KT = ranking_mask(*sizes)[sizes[0] :].contiguous().to(device)
        self._layer: Callable[..., Tensor] = _copying_layer
        self._parts = _Parts(model, lambda function: function)
        self._call: Callable[[Fields, Tensor], Tensor] = self._forward

    def compile(self, compiled: Compile, mode: Mode) -> "CopiedDecode":
        """Make it faster, in place, and return it."""
        if mode == "whole":
            self._call = compiled(self._forward)
        else:
            self._parts = _Parts(self._model, compiled)
            self._layer = compiled(self._layer)
        return self

    def places(self, slots: Sequence[int]) -> Tensor:
        """Where the positions of these slots stand in the memory, [X]."""
        begin_B = torch.tensor([self._map.begin(slot) for slot in slots])
        place_BN = begin_B[:, None] + torch.arange(self._positions)
        return place_BN.flatten().to(self._memory_L2HPD.device)

    def __call__(self, fields: Fields, place_X: Tensor) -> Tensor:
        """Probabilities [B, K, A] in float32 over the slots that `places` found."""
        return self._call(fields, place_X)

    def _forward(self, fields: Fields, place_X: Tensor) -> Tensor:
        token_BKC = self._parts.candidates(self._items, fields)
        for block, memory_2HPD in zip(self._model.trunk.blocks, self._memory_L2HPD, strict=True):
            token_BKC = self._layer(block, token_BKC, memory_2HPD, place_X, self._mask_KT)
        return self._parts.probabilities(token_BKC)


class _Parts:
    """Tokens and head, which all forwards share."""

    def __init__(self, model: ServedModel, compiled: Compile) -> None:
        self._packed = compiled(model.tokenizer.packed)
        self._candidates = compiled(model.tokenizer.candidates)
        self._norm = model.trunk.norm
        self._head = compiled(model.ranking_head)

    def history(self, items: ItemTable, fields: Fields) -> Tensor:
        """Tokens [B, N, C]."""
        item_BN = fields["item"]
        position_BN = torch.arange(item_BN.size(1), device=item_BN.device).expand_as(item_BN)
        token_XC: Tensor = self._packed(
            items(item_BN.flatten()),
            fields["actions"].flatten(),
            torch.zeros_like(item_BN, dtype=torch.bool).flatten(),
            fields["timestamp"].flatten(),
            fields["previous"].flatten(),
            fields["surface"].flatten(),
            position_BN.flatten(),
        )
        return token_XC.view(*item_BN.shape, -1)

    def candidates(self, items: ItemTable, fields: Fields) -> Tensor:
        """Tokens [B, K, C]."""
        token_BKC: Tensor = self._candidates(
            items(fields["candidate"]), fields["time"], fields["asked_surface"]
        )
        return token_BKC

    def probabilities(self, token_BKC: Tensor) -> Tensor:
        """Probabilities [B, K, A] of what leaves the last layer."""
        return torch.sigmoid(self._head(self._norm(token_BKC)).float())


def ranking_mask(positions: int, candidates: int) -> Tensor:
    """Who sees whom of T positions, [T, T]: the history is causal, candidates see it and themselves."""
    place_T = torch.arange(positions + candidates)
    return _ranking_rule(positions)(place_T, place_T, place_T[:, None], place_T)


def _ranking_rule(positions: int) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    def visible(_b: Tensor, _h: Tensor, q: Tensor, p: Tensor) -> Tensor:
        return (p <= q) & ((p < positions) | (p == q))

    return visible


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
