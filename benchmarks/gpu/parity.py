"""How far one forward's probabilities are from another's.

Shapes: B rows, K candidates, A actions.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from benchmarks.gpu.report import Parity
from benchmarks.random_bundle import UTILITY

TOP = 10
LEAST_PROBABILITY = 1e-7
"""Logits are read off float32 probabilities, which end here."""


def parity(found: Sequence[Tensor], expected: Sequence[Tensor]) -> Parity:
    """Of probabilities [B, K, A] of the same batches."""
    found_BKA, expected_BKA = torch.cat(list(found)).double(), torch.cat(list(expected)).double()
    probability = (found_BKA - expected_BKA).abs()
    logit = (_logit(found_BKA) - _logit(expected_BKA)).abs()
    return Parity(
        largest=float(probability.max()),
        mean=float(probability.mean()),
        largest_logit=float(logit.max()),
        mean_logit=float(logit.mean()),
        same_top=_same_top(found_BKA, expected_BKA),
    )


def _logit(probability_BKA: Tensor) -> Tensor:
    return torch.logit(probability_BKA, eps=LEAST_PROBABILITY)


def _same_top(found_BKA: Tensor, expected_BKA: Tensor) -> float:
    """Mean share of each row's best items by utility that are the same."""
    weight_A = torch.tensor(UTILITY, dtype=torch.float64)
    top_BK = [(one @ weight_A).topk(min(TOP, one.size(1))).indices for one in (found_BKA, expected_BKA)]
    same_BKK = top_BK[0][:, :, None] == top_BK[1][:, None, :]
    return float(same_BKK.any(-1).double().mean())
