"""Weights of no training whose answers differ clearly between items and between histories."""

import torch
from torch import nn

QKV_GAIN, RANKING_GAIN, GAIN = 2.0, 1.5, 1.0
"""Standard deviation of a matrix times the root of its inputs: of queries, keys and values, so that
attention prefers a few events; of the ranking head, so that probabilities differ widely; of all others."""

EMBEDDING_STD = 0.5


@torch.no_grad()
def spread_weights(model: nn.Module, seed: int) -> None:
    """Draw all matrices anew by a seed; biases and single tokens stay as they are.

    Outputs of a layer stay of the size of its inputs, whatever the width: what rounding to bfloat16 changes
    remains far below what another history changes.
    """
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for name, weight in model.named_parameters():
            if weight.ndim > 1:
                is_table = id(weight) in tables
                nn.init.normal_(
                    weight, std=EMBEDDING_STD if is_table else _gain(name) * weight.size(-1) ** -0.5
                )


def _gain(name: str) -> float:
    if "ranking_head" in name:
        return RANKING_GAIN
    return QKV_GAIN if "qkv" in name else GAIN
