"""What the encoder kernel computes, in plain PyTorch (TransAct V2, arXiv 2506.02267 §4).

Two layers by default, each with one causal head, `x = norm(x + attend(x) O)`, `x = norm(x + relu(x E) S)`,
without biases; the norm has no weights.

Shapes: B sequences, N tokens, W width, F hidden width, L layers.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor


class EncoderWeights(NamedTuple):
    """Matrices of all layers, which rows are multiplied with from the left."""

    attention_L4WW: Tensor
    """Of query, key, value and output."""
    expand_LWF: Tensor
    shrink_LFW: Tensor

    @classmethod
    def of_linear(cls, layers: Iterable[Sequence[Tensor]]) -> Self:
        """Return those of layers of `nn.Linear`, by each layer's four weights, with a row for each output.

        These are query, key and value in one [3 W, W], output [W, W], then [F, W] and [W, F].
        """
        parts = [
            (torch.stack([*project.T.chunk(3, dim=1), join.T]), inner.T, outer.T)
            for project, join, inner, outer in layers
        ]
        return cls(*(torch.stack(of_layers) for of_layers in zip(*parts, strict=True)))

    def to(self, device: torch.device, dtype: torch.dtype) -> Self:
        """Return contiguous copies on a device."""
        return type(self)(*(weight.to(device, dtype).contiguous() for weight in self))


def encode_plain(token_BNW: Tensor, length_B: Tensor, weights: EncoderWeights) -> Tensor:
    """Return encoded tokens [B, N, W]; zeros from `length_B` on, whatever stands there."""
    tokens, width = token_BNW.shape[1:]
    place_N = torch.arange(tokens, device=token_BNW.device)
    is_token_BN1 = (place_N < length_B[:, None]).unsqueeze(-1)
    # Causal attention sees no padding, which stands behind all tokens; but NaN times 0 is NaN.
    x_BNW = torch.where(is_token_BN1, token_BNW, 0.0)
    for attention_4WW, expand_WF, shrink_FW in zip(*weights, strict=True):
        query_BNW, key_BNW, value_BNW = (x_BNW @ matrix_WW for matrix_WW in attention_4WW[:3])
        seen_BNW = F.scaled_dot_product_attention(query_BNW, key_BNW, value_BNW, is_causal=True)
        x_BNW = F.layer_norm(x_BNW + seen_BNW @ attention_4WW[3], (width,))
        x_BNW = F.layer_norm(x_BNW + (x_BNW @ expand_WF).relu() @ shrink_FW, (width,))
    return torch.where(is_token_BN1, x_BNW, 0.0)
