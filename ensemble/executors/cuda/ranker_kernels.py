"""Search and encoder of TransAct V2 for a GPU.

Shapes: R requests, N events, V vectors, C candidates, W width of search vectors, T tokens, D token width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ensemble.executors.cuda.second_ranker import Kernels
from unipinrec.models.transact.encoder_v2 import LifelongEncoder
from unipinrec.models.transact.fixed import layers_of
from unipinrec.models.transact.kernels.definition import EncoderWeights
from unipinrec.models.transact.kernels.encoder import EncoderKernel
from unipinrec.models.transact.kernels.search import WIDTHS, SearchKernel
from unipinrec.models.transact.layer import CausalLayer
from unipinrec.models.transact.module import TransAct, TransActV2
from unipinrec.models.transact.search import Nearest

ENCODED = (16, 32, 64)
"""Widths, of tokens and hidden, of which the encoder's kernel holds a block in registers."""


def kernels_for(model: TransAct | TransActV2, device: torch.device, dtype: torch.dtype) -> Kernels | None:
    """Return what a model computes with besides PyTorch; None for TransAct, which has no kernel.

    The encoder multiplies in `dtype`. Where its sizes suit no kernel, PyTorch runs its layers in float32.
    Search vectors are widened with zeros to the next width of the kernel, which changes no score. ValueError
    for wider ones than any.
    """
    if not isinstance(model, TransActV2):
        return None
    width = model.search_VW.size(1)
    if width > WIDTHS[-1]:
        raise ValueError(f"search_dim is {width}; allowed on a GPU: 1 to {WIDTHS[-1]}")
    widened = min(each for each in WIDTHS if each >= width)
    model.search_VW = F.pad(model.search_VW, (0, widened - width))
    if {model.config.row_dim, model.config.feedforward} <= set(ENCODED):
        return Kernels(search, KernelEncoder(model.encoder, device, dtype))
    return Kernels(search, layers_of(model.encoder))


def search(
    vector_VW: Tensor,
    row_N: Tensor,
    span_R2: Tensor,
    candidate_CW: Tensor,
    candidate_offset_R1: Tensor,
    count: int,
    longest: int,
) -> Nearest:
    """Return what `unipinrec.models.transact.search.nearest` does."""
    # Memory of its own, which a captured graph takes from the graphs' and shares with the others.
    kernel = SearchKernel(
        requests=len(span_R2),
        candidates=len(candidate_CW),
        events=min(longest, len(row_N)),
        count=count,
        device=row_N.device,
    )
    return kernel(vector_VW, row_N, span_R2, candidate_CW.contiguous(), candidate_offset_R1)


class KernelEncoder:
    """An encoder's layers as one kernel."""

    def __init__(self, encoder: LifelongEncoder, device: torch.device, dtype: torch.dtype) -> None:
        layers = [layer for layer in encoder.layers if isinstance(layer, CausalLayer)]
        self._weights = EncoderWeights.of_linear(
            [each.weight.detach() for each in (layer.project, layer.join, layer.inner, layer.outer)]
            for layer in layers
        ).to(device, dtype)

    def __call__(self, token_CTD: Tensor, length_C: Tensor) -> Tensor:
        """Return encoded tokens [C, T, D] in float32, zeros behind the last of each candidate."""
        candidates, tokens, _ = token_CTD.shape
        return EncoderKernel(self._weights, candidates, tokens)(token_CTD.contiguous(), length_C)
