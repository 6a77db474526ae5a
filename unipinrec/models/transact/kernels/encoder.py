"""The encoder of TransAct V2 as one kernel (arXiv 2506.02267 §4, SKUT).

One program encodes one sequence, block after block of tokens through all layers. Attention is causal, so a
block needs of the others the keys and values of earlier blocks only: those lie in memory, computed once for
each layer. Sums, softmax and residuals are float32; what is multiplied has the weights' type.

Shapes: B sequences, N tokens, W width, F hidden width, L layers.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from unipinrec.models.transact.kernels.definition import EncoderWeights

BLOCK = {torch.float16: 64, torch.bfloat16: 64, torch.float32: 32}
"""Tokens that are computed together, as many as registers hold; products of float32 take more of them."""
WARPS = 4


class EncoderKernel:
    """The encoder for one number of sequences and tokens, with memory of its own on the weights' device.

    Lengths are data, so one captured CUDA graph serves all of them.
    """

    def __init__(self, weights: EncoderWeights, batch: int, tokens: int) -> None:
        """Products are computed in the weights' type; float32 by three products of TF32's precision."""
        self._weights = weights
        layers, width, _ = weights.expand_LWF.shape
        self._memory = weights.expand_LWF.new_empty(batch, layers, 2, tokens, width)
        self._encoded_BNW = torch.empty(batch, tokens, width, device=weights.expand_LWF.device)

    def __call__(self, token_BNW: Tensor, length_B: Tensor) -> Tensor:
        """Return what `encode_plain` returns, as float32 [B, N, W], valid until the next call.

        ValueError for another shape than announced.
        """
        expected = self._encoded_BNW.shape
        if token_BNW.shape != expected or not token_BNW.is_contiguous():
            raise ValueError(f"tokens are {tuple(token_BNW.shape)}; allowed: contiguous {tuple(expected)}")
        layers, width, hidden = self._weights.expand_LWF.shape
        encode_kernel[(len(token_BNW),)](
            token_BNW,
            length_B,
            *self._weights,
            self._memory,
            self._encoded_BNW,
            token_BNW.size(1),
            LAYERS=layers,
            WIDTH=width,
            HIDDEN=hidden,
            BLOCK=BLOCK[self._weights.expand_LWF.dtype],
            num_warps=WARPS,
        )
        return self._encoded_BNW


@triton.jit
def encode_kernel(
    token_ptr,
    length_ptr,
    attention_ptr,
    expand_ptr,
    shrink_ptr,
    memory_ptr,
    encoded_ptr,
    tokens,
    LAYERS: tl.constexpr,
    WIDTH: tl.constexpr,
    HIDDEN: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Encode one sequence."""
    sequence = tl.program_id(0).to(tl.int64)
    length = tl.minimum(tl.load(length_ptr + sequence), tokens).to(tl.int32)
    place_n = tl.arange(0, BLOCK)
    tile_nw = place_n[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]
    token_ptr += sequence * tokens * WIDTH
    encoded_ptr += sequence * tokens * WIDTH
    memory_ptr += sequence * LAYERS * 2 * tokens * WIDTH
    for begin in range(0, length, BLOCK):
        real_n1 = (begin + place_n < length)[:, None]
        x_nw = tl.load(token_ptr + begin * WIDTH + tile_nw, mask=real_n1, other=0.0).to(tl.float32)
        for layer in range(LAYERS):
            attended_nw = _attended(
                x_nw,
                attention_ptr + layer * 4 * WIDTH * WIDTH,
                memory_ptr + layer * 2 * tokens * WIDTH,
                begin,
                length,
                tokens,
                WIDTH,
                BLOCK,
            )
            x_nw = _normalised(x_nw + attended_nw, WIDTH)
            expand_wf = _matrix(expand_ptr + layer * WIDTH * HIDDEN, WIDTH, HIDDEN)
            shrink_fw = _matrix(shrink_ptr + layer * HIDDEN * WIDTH, HIDDEN, WIDTH)
            hidden_nf = tl.maximum(_product(x_nw, expand_wf), 0.0)
            x_nw = _normalised(x_nw + _product(hidden_nf, shrink_fw), WIDTH)
        tl.store(
            encoded_ptr + begin * WIDTH + tile_nw,
            tl.where(real_n1, x_nw, 0.0),
            mask=(begin + place_n < tokens)[:, None],
        )
        # Later blocks read the keys and values that other threads of this program have written.
        tl.debug_barrier()
    for begin in range(tl.cdiv(length, BLOCK) * BLOCK, tokens, BLOCK):
        within_n1 = (begin + place_n < tokens)[:, None]
        tl.store(encoded_ptr + begin * WIDTH + tile_nw, tl.zeros([BLOCK, WIDTH], tl.float32), mask=within_n1)


@triton.jit
def _attended(
    x_nw, attention_ptr, memory_ptr, begin, length, tokens, WIDTH: tl.constexpr, BLOCK: tl.constexpr
):
    """One layer's attention of a block from `begin` on, whose keys and values join the memory."""
    # A power of 2 is cheaper than one of e, and the factor joins the scale.
    scale: tl.constexpr = 1.4426950408889634 / WIDTH**0.5
    square: tl.constexpr = WIDTH * WIDTH
    place_n = tl.arange(0, BLOCK)
    tile_nw = place_n[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]
    value_ptr = memory_ptr + tokens * WIDTH
    query_nw = _product(x_nw, _matrix(attention_ptr, WIDTH, WIDTH)) * scale
    key_nw = _product(x_nw, _matrix(attention_ptr + square, WIDTH, WIDTH)).to(memory_ptr.dtype.element_ty)
    value_nw = _product(x_nw, _matrix(attention_ptr + 2 * square, WIDTH, WIDTH)).to(key_nw.dtype)
    real_n1 = (begin + place_n < length)[:, None]
    tl.store(memory_ptr + begin * WIDTH + tile_nw, key_nw, mask=real_n1)
    tl.store(value_ptr + begin * WIDTH + tile_nw, value_nw, mask=real_n1)

    largest_n = tl.full([BLOCK], float("-inf"), tl.float32)
    total_n = tl.zeros([BLOCK], tl.float32)
    sum_nw = tl.zeros([BLOCK, WIDTH], tl.float32)
    for earlier in range(0, begin, BLOCK):
        earlier_mw = tl.load(memory_ptr + earlier * WIDTH + tile_nw)
        score_nm = _product(query_nw, tl.trans(earlier_mw))
        earlier_mw = tl.load(value_ptr + earlier * WIDTH + tile_nw)
        largest_n, total_n, sum_nw = _added(score_nm, earlier_mw, largest_n, total_n, sum_nw)
    # Every row sees itself, and no token sees the padding behind it.
    seen_nm = place_n[None, :] <= place_n[:, None]
    score_nm = tl.where(seen_nm, _product(query_nw, tl.trans(key_nw)), float("-inf"))
    largest_n, total_n, sum_nw = _added(score_nm, value_nw, largest_n, total_n, sum_nw)
    return _product(sum_nw / total_n[:, None], _matrix(attention_ptr + 3 * square, WIDTH, WIDTH))


@triton.jit
def _added(score_nm, value_mw, largest_n, total_n, sum_nw):
    """A softmax's largest score, total and weighted sum with further scores, in powers of 2."""
    found_n = tl.maximum(largest_n, tl.max(score_nm, 1))
    weight_nm = tl.exp2(score_nm - found_n[:, None])
    faded_n = tl.exp2(largest_n - found_n)
    total_n = total_n * faded_n + tl.sum(weight_nm, 1)
    sum_nw = sum_nw * faded_n[:, None] + _product(weight_nm, value_mw)
    return found_n, total_n, sum_nw


@triton.jit
def _product(left, right):
    """A matrix product in the type of `right`, summed in float32."""
    return tl.dot(left.to(right.dtype), right, input_precision="tf32x3", out_dtype=tl.float32)


@triton.jit
def _matrix(ptr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    return tl.load(ptr + tl.arange(0, ROWS)[:, None] * COLUMNS + tl.arange(0, COLUMNS)[None, :])


@triton.jit
def _normalised(x_nw, WIDTH: tl.constexpr):
    """A layer norm without weights."""
    centred_nw = x_nw - (tl.sum(x_nw, 1) / WIDTH)[:, None]
    variance_n = tl.sum(centred_nw * centred_nw, 1) / WIDTH
    return centred_nw * tl.rsqrt(variance_n + 1e-5)[:, None]
