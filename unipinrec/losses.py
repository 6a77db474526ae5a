"""Both losses of the one training stage (UniPinRec §1.5).

Shapes: P positions with a target, X negatives, B examples, N events, K candidates, A actions, E item width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SampledSoftmax(nn.Module):
    """Sampled softmax over the positive and a shared set of negatives, with log-frequency correction.

    The score is `s = scale * q.i - log Q(i)` (UniPinRec Eq 1), where Q is the chance that one drawn negative
    is item i. The temperature is learned in log space, from 0.07 on, and its inverse never exceeds 100.
    """

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(1 / 0.07).log())

    def forward(
        self,
        query_PE: Tensor,
        positive_PE: Tensor,
        positive_row_P: Tensor,
        positive_log_q_P: Tensor,
        negative_XE: Tensor,
        negative_row_X: Tensor,
        negative_log_q_X: Tensor,
        same_user_PX: Tensor,
    ) -> Tensor:
        """Mean loss over positions, without negatives that are the positive item or the same user's."""
        scale = self.log_scale.exp().clamp(max=100.0)
        positive_P = scale * (query_PE * positive_PE).sum(-1) - positive_log_q_P
        negative_PX = scale * query_PE @ negative_XE.T - negative_log_q_X
        left_out_PX = same_user_PX | (positive_row_P.unsqueeze(1) == negative_row_X)
        negative_PX = negative_PX.masked_fill(left_out_PX, float("-inf"))
        logit_PX = torch.cat([positive_P.unsqueeze(1), negative_PX], dim=1)
        return (torch.logsumexp(logit_PX, dim=1) - positive_P).mean()


def action_loss(logit: Tensor, multi_hot: Tensor, counted: Tensor, weight_A: Tensor) -> Tensor:
    """Weighted sum over actions of the mean binary cross-entropy over counted positions (UniPinRec Eq 4).

    `logit` and `multi_hot` are [B, X, A], `counted` is a boolean [B, X]. Zero when nothing is counted.
    """
    if not bool(counted.any()):
        return logit.sum() * 0.0
    loss_XA = F.binary_cross_entropy_with_logits(
        logit[counted], multi_hot[counted].to(logit.dtype), reduction="none"
    )
    return (loss_XA.mean(0) * weight_A).sum()
