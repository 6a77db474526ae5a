"""What the second ranker's kernels are given in tests. Nothing here imports Triton.

Shapes: R requests, N events or tokens, V vectors, C candidates, E vector width, B sequences, W width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unipinrec.models.transact.kernels.definition import EncoderWeights


@dataclass(frozen=True)
class SearchCase:
    """Requests of several lengths. The events between them would be the nearest of all."""

    vector_VE: Tensor
    row_N: Tensor
    span_R2: Tensor
    candidate_CE: Tensor
    candidate_offset_R1: Tensor
    count: int

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        return self.vector_VE, self.row_N, self.span_R2, self.candidate_CE, self.candidate_offset_R1


@dataclass(frozen=True)
class EncoderCase:
    """Sequences of several lengths, behind which stands NaN."""

    token_BNW: Tensor
    length_B: Tensor
    weights: EncoderWeights


def search_case(
    lengths: Sequence[int],
    candidates: Sequence[int],
    count: int,
    *,
    width: int = 32,
    vectors: int = 50,
    largest: int = 127,
    gap: int = 2,
    negative: bool = False,
    seed: int = 0,
) -> SearchCase:
    """Draw integers up to `largest`; few vectors of small ones make many equal scores.

    The first vector is zero, and a last one, which stands in the gaps between requests, wins over all others.
    Where scores are `negative`, only a zero vector wins over anything.
    """
    draw = torch.Generator().manual_seed(seed)

    def integers(*shape: int) -> Tensor:
        return torch.randint(-largest, largest + 1, shape, generator=draw, dtype=torch.int8)

    candidate_CE = integers(sum(candidates), width)
    candidate_CE[:, 0] = largest
    vector_VE = torch.cat([integers(vectors, width), torch.zeros(1, width, dtype=torch.int8)])
    vector_VE[0] = 0
    vector_VE[-1, 0] = 127
    vector_VE[:-1, 0] = -vector_VE[:-1, 0].abs()
    if negative:
        candidate_CE, vector_VE[:-1] = candidate_CE.abs(), -vector_VE[:-1].abs()
    rows, spans, end = [], [], 0
    for length in lengths:
        rows += [torch.full((gap,), vectors), torch.randint(vectors, (length,), generator=draw)]
        spans.append((end + gap, end + gap + length))
        end += gap + length
    offset_R1 = torch.tensor([0, *candidates]).cumsum(0)
    rows.append(torch.full((gap,), vectors))
    return SearchCase(vector_VE, torch.cat(rows), torch.tensor(spans), candidate_CE, offset_R1, count)


def encoder_case(
    lengths: Sequence[int],
    tokens: int,
    *,
    layers: int = 2,
    width: int = 64,
    hidden: int = 32,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> EncoderCase:
    """Draw tokens, and weights that keep their size."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw) / shape[-2] ** 0.5

    weights = EncoderWeights(
        normal(layers, 4, width, width), normal(layers, width, hidden), normal(layers, hidden, width)
    )
    token_BNW = torch.randn(len(lengths), tokens, width, generator=draw)
    for row, length in enumerate(lengths):
        token_BNW[row, length:] = torch.nan
    return EncoderCase(token_BNW.to(dtype), torch.tensor(lengths), weights.to(token_BNW.device, dtype))


SPARE = 2
"""Candidates of no request."""
SHORTENED = 32
"""Events that one search is made for, though some requests have more."""

SEARCHES = {
    "lengths": search_case((0, 1, 3, 4, 5, 0, 70), (1, 1, 2, 1, 1, 0, 2), 4),
    "ties": search_case((300, 90), (2, 1), 6, vectors=7, largest=1, gap=0),
    "left-over candidates": search_case((40,), (18,), 2),
    "negative scores": search_case((33, 49, 65), (2, 2, 2), 2, negative=True),
    "one of another width": search_case((100,), (2,), 1, width=64),
}
"""Few candidates, since the interpreter takes a third of a second for each."""

ENCODERS = {
    "left-over blocks": encoder_case((0, 1, 31, 32, 33, 63, 64, 75), 75),
    "whole blocks": encoder_case((64, 40, 0), 64, seed=1),
    "one layer": encoder_case((50, 20), 50, layers=1, width=32, hidden=16, seed=2),
    "float16": encoder_case((0, 64, 100), 100, dtype=torch.float16, seed=3),
}
