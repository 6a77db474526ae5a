"""Second rankers of random weights, larger than at first, so that everything counts."""

from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from tests.support.slate_requests import ACTIONS, ITEMS, SURFACES
from unipinrec.models.transact.batch import RequestBatch
from unipinrec.models.transact.config import TransactConfig, TransactV2Config
from unipinrec.models.transact.module import TransAct, TransActV2

M = TypeVar("M", TransAct, TransActV2)

CATALOGUE = {"num_items": ITEMS, "num_actions": ACTIONS, "num_surfaces": SURFACES}
SIZES = {"max_candidates": 8, "max_events": 20, "first_rows": 4, "cross_dim": 24}
SIZES_V2 = {
    "max_candidates": 8, "max_events": 64, "realtime_events": 9, "lifelong_nearest": 5, "latest_events": 4,
    "realtime_nearest": 3, "impressions_nearest": 6, "cross_dim": 24, "search_dim": 8,
}  # fmt: skip
SWITCHES: list[dict[str, Any]] = [
    {},
    {"outputs": "first"},
    {"outputs": "max"},
    {"fusion": "append"},
    {"base_rates": False},
    {"encoder_layers": 1, "outputs": "first"},
    {"cross_dim": 0},
]
"""Of TransAct."""


def transact(**changes: Any) -> TransAct:
    """Return a TransAct."""
    torch.manual_seed(0)
    return _enlarged(TransAct(TransactConfig(**CATALOGUE | SIZES | changes)))


def transact_v2(**changes: Any) -> TransActV2:
    """Return a TransAct V2 with random vectors to search by."""
    torch.manual_seed(0)
    model = _enlarged(TransActV2(TransactV2Config(**CATALOGUE | SIZES_V2 | changes)))
    model.search_VW.copy_(torch.randint(-127, 128, model.search_VW.shape))
    return model


def _enlarged(model: M) -> M:
    for weight in model.parameters():
        if weight.ndim > 1:
            nn.init.normal_(weight, std=0.6 * weight.size(-1) ** -0.5)
    return model.eval()


def logits(model: nn.Module, requests: RequestBatch, *more: object) -> Tensor:
    """Return what the model says without gradients."""
    with torch.inference_mode():
        logit_CA: Tensor = model(requests, *more)
    return logit_CA


def apart(one: Tensor, other: Tensor) -> float:
    """Return the largest difference of two tensors of the same shape."""
    assert one.shape == other.shape
    return float((one - other).detach().abs().max())
