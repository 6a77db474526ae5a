"""The three ways a token attends; none builds an (n + k) x (n + k) matrix.

Shapes: B requests, H heads, D head width, N history positions, T positions of which the last M are new,
K candidates.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def causal_attention(query_BHND: Tensor, key_BHND: Tensor, value_BHND: Tensor) -> Tensor:
    """Attend from a history to itself. Padding sits at the end, where causality already hides it."""
    return F.scaled_dot_product_attention(query_BHND, key_BHND, value_BHND, is_causal=True)


def continued_attention(query_BHMD: Tensor, key_BHTD: Tensor, value_BHTD: Tensor) -> Tensor:
    """Attend from the last M of T positions to all, causally; no matrix is larger than M x T."""
    new, total = query_BHMD.size(2), key_BHTD.size(2)
    if new == total:
        return causal_attention(query_BHMD, key_BHTD, value_BHTD)
    seen_MT = torch.ones(new, total, dtype=torch.bool, device=query_BHMD.device).tril(total - new)
    return F.scaled_dot_product_attention(query_BHMD, key_BHTD, value_BHTD, attn_mask=seen_MT)


def candidate_attention(
    query_BHKD: Tensor,
    own_key_BHKD: Tensor,
    own_value_BHKD: Tensor,
    key_BHND: Tensor,
    value_BHND: Tensor,
    hidden_BKN: Tensor,
) -> Tensor:
    """Attend from each candidate to the history and itself, never to another one (UniPinRec §1.4).

    `hidden_BKN` marks history positions that a candidate must not see, and may be [B, 1, N]. Costs N +
    1 scores a candidate.
    """
    scale = 1.0 / math.sqrt(query_BHKD.size(-1))
    history_BHKN = torch.matmul(query_BHKD, key_BHND.transpose(-1, -2)) * scale
    history_BHKN = history_BHKN.masked_fill(hidden_BKN[:, None], float("-inf"))
    own_BHK1 = (query_BHKD * own_key_BHKD).sum(-1, keepdim=True) * scale
    weight = torch.softmax(torch.cat([history_BHKN, own_BHK1], dim=-1), dim=-1)
    return torch.matmul(weight[..., :-1], value_BHND) + weight[..., -1:] * own_value_BHKD


def cached_candidate_attention(
    query_BHKD: Tensor,
    own_key_BHKD: Tensor,
    own_value_BHKD: Tensor,
    key_BHND: Tensor,
    value_BHND: Tensor,
) -> Tensor:
    """Attend as `candidate_attention` does to a history without padding, for inference alone.

    A fused kernel attends to the history and tells the log of its softmax's sum, so that a candidate's own
    score joins afterwards and no K x N matrix is kept. The kernel's sum has no gradient.
    """
    scale = 1.0 / math.sqrt(query_BHKD.size(-1))
    history_BHKD, log_sum_BHK = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query_BHKD, key_BHND, value_BHND, 0.0, False, scale=scale
    )
    own_BHK = (query_BHKD * own_key_BHKD).sum(-1) * scale
    own_share_BHK1 = torch.sigmoid(own_BHK - log_sum_BHK).unsqueeze(-1).to(query_BHKD.dtype)
    return torch.lerp(history_BHKD, own_value_BHKD, own_share_BHK1)
