"""What serving runs of a trained second ranker.

Shapes: V items, E item width.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from unipinrec.models.spec import Exports
from unipinrec.models.transact.config import SecondRankerConfig, TransactConfig, TransactV2Config
from unipinrec.models.transact.module import TransAct, TransActV2

EMBEDDER = "embedder"
"""The part of a model that a bundle replaces by its outputs."""


class ItemTable(nn.Module):
    """Vectors of the whole catalogue, in place of what computes them."""

    def __init__(self, config: SecondRankerConfig) -> None:
        super().__init__()
        self.vector_VE: Tensor = nn.Buffer(torch.empty(config.num_items, config.item_dim))

    def forward(self, item_row: Tensor, hidden_ids: Tensor | None = None) -> Tensor:
        """Return vectors [..., E] of item rows [...]; only training hides ids."""
        del hidden_ids
        return self.vector_VE[item_row]


def second_ranker_exports(model: TransAct | TransActV2) -> Exports:
    """Return all that serving computes with: the model's weights, and vectors for its embedder."""
    weights = {
        name: weight for name, weight in model.state_dict().items() if not name.startswith(f"{EMBEDDER}.")
    }
    return Exports({}, weights | {f"{EMBEDDER}.vector_VE": model.embedder.all_vectors()})


def load_second_ranker(path: Path, config: SecondRankerConfig) -> TransAct | TransActV2:
    """Return the model of a bundle's file of weights, in evaluation mode."""
    model = _make(config)
    model.register_module(EMBEDDER, ItemTable(config))
    model.load_state_dict(load_file(path), assign=True)
    return model.eval()


def _make(config: SecondRankerConfig) -> TransAct | TransActV2:
    if isinstance(config, TransactConfig):
        return TransAct(config)
    if isinstance(config, TransactV2Config):
        return TransActV2(config)
    raise TypeError(f"config is a {type(config).__name__}; allowed: one of TransAct or TransAct V2")
