"""Both losses of the one training stage (UniPinRec §1.5).

Shapes: P positions with a target, R targets that a position may hit, X negatives, B examples, K candidates,
A actions, E item width.
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
        target_PRE: Tensor,
        target_log_q_PR: Tensor,
        counted_PR: Tensor,
        negative_XE: Tensor,
        negative_log_q_X: Tensor,
        left_out_PX: Tensor,
    ) -> Tensor:
        """Return each position's least loss over the counted targets, of which it has at least one, [P].

        With several targets this is PinRec's intra-feed relaxation (§2.6). `left_out_PX` marks what must not
        be a negative of a position: its targets, and other items of the same user.
        """
        scale = self.log_scale.exp().clamp(max=100.0)
        target_PR = scale * torch.einsum("pe,pre->pr", query_PE, target_PRE) - target_log_q_PR
        negative_PX = scale * query_PE @ negative_XE.T - negative_log_q_X
        negative_P1 = negative_PX.masked_fill(left_out_PX, float("-inf")).logsumexp(1, keepdim=True)
        loss_PR = torch.logaddexp(target_PR, negative_P1) - target_PR
        return loss_PR.masked_fill(~counted_PR, float("inf")).amin(1)


def action_loss(
    logit: Tensor, multi_hot: Tensor, counted: Tensor, number: Tensor, weight_A: Tensor
) -> Tensor:
    """Return the weighted sum over actions of binary cross-entropy over counted positions (UniPinRec Eq 4).

    It is a mean where `number` is that of the counted positions; several processes, each with some of them,
    divide by the number that all have. `logit` and `multi_hot` are [B, X, A], `counted` is a boolean [B, X].
    Zero when nothing is counted.
    """
    loss_XA = F.binary_cross_entropy_with_logits(
        logit[counted], multi_hot[counted].to(logit.dtype), reduction="none"
    )
    return (loss_XA.sum(0) / number.clamp(min=1) * weight_A).sum()
