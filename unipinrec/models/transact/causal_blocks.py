"""Plain causal layers without gradients on a CPU: what `layer.CausalLayer` returns, from half of the time.

Some candidates after another, so that a processor's cache holds what they are computed with. Attention of
one head needs no keys: a query is multiplied with the rows themselves, by the product of both matrices, as a
value is with that of its own and the one behind it. Blocks of queries leave out the later rows. Rows that
were normalised have a mean of 0, and so has what is added to them if the matrix before has: their norm is
their length's alone.

Shapes: C candidates, c those computed together, N rows of a candidate, Q a block of them, D row width, H
feed-forward width.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn.functional import linear

from unipinrec.models.transact.layer import HIDDEN, CausalLayer

TOGETHER = 3_072
"""Rows computed together: 2 MB with their queries and values."""
BLOCK = 64
"""Queries computed together; fewer leave out more later rows, in smaller products."""


@dataclass(frozen=True, slots=True)
class FoldedLayer:
    """Matrices of a layer, with a row for each output."""

    mix_2DD: Tensor
    """To scaled queries of rows, then to centred values."""
    inner_HD: Tensor
    outer_DH: Tensor
    """Centred."""
    eps: float

    @classmethod
    def of(cls, layer: CausalLayer) -> Self:
        """Return the products of a layer's matrices."""
        query_DD, key_DD, value_DD = layer.project.weight.chunk(3)
        asked_DD = key_DD.T @ query_DD * layer.width**-0.5
        read_DD = _centred(layer.join.weight @ value_DD)
        return cls(
            torch.cat([asked_DD, read_DD]),
            layer.inner.weight,
            _centred(layer.outer.weight),
            layer.norm_attention.eps,
        )

    def __call__(self, row_cND: Tensor, later_QQ: Tensor, centred: bool) -> Tensor:
        """Return the layer's rows; `centred` says whether those given have a mean of 0."""
        query_cND, value_cND = linear(row_cND, self.mix_2DD).chunk(2, dim=-1)
        read_cND = torch.empty_like(row_cND)
        for begin in range(0, row_cND.size(1), BLOCK):
            block, seen = slice(begin, begin + BLOCK), slice(begin + BLOCK)
            score_cQN = torch.bmm(query_cND[:, block], row_cND[:, seen].transpose(1, 2))
            score_cQQ = score_cQN[:, :, begin:]
            score_cQQ += later_QQ[: score_cQQ.size(1), : score_cQQ.size(2)]
            read_cND[:, block] = torch.baddbmm(row_cND[:, block], score_cQN.softmax(-1), value_cND[:, seen])
        if not centred:
            read_cND -= read_cND.mean(-1, keepdim=True)
        self._normalise(read_cND)
        hidden_cNH = linear(read_cND, self.inner_HD).relu_()
        read_cND.flatten(0, 1).addmm_(hidden_cNH.flatten(0, 1), self.outer_DH.T)
        return self._normalise(read_cND)

    def _normalise(self, row_cND: Tensor) -> Tensor:
        """Norm rows of mean 0 in place."""
        length_cN1 = torch.linalg.vector_norm(row_cND, dim=-1, keepdim=True)
        return row_cND.mul_(length_cN1.square_().div_(row_cND.size(-1)).add_(self.eps).rsqrt_())


class CausalBlocks:
    """All layers of an encoder."""

    def __init__(self, layers: Iterable[CausalLayer]) -> None:
        self._layers = [FoldedLayer.of(layer) for layer in layers]

    def __call__(self, row_cND: Tensor) -> Tensor:
        """Return the rows behind all layers. Padding has to stand at the end, where no other row reads it."""
        later_QQ = row_cND.new_full((BLOCK, BLOCK), HIDDEN).triu(1)
        for place, layer in enumerate(self._layers):
            row_cND = layer(row_cND, later_QQ, centred=place > 0)
        return row_cND


def candidates_together(rows: int) -> int:
    """Return how many candidates of so many rows each are best computed together."""
    return max(TOGETHER // rows, 1)


def _centred(weight_DX: Tensor) -> Tensor:
    """Return a matrix whose outputs have a mean of 0."""
    return weight_DX - weight_DX.mean(0)
