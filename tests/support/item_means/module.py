"""Sizes and module.

Shapes: B users, N events, V items, E item width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unipinrec.models.config import CatalogueConfig


class ItemMeansConfig(CatalogueConfig):
    item_dim: int = 8
    max_history: int = 16


class ItemMeans(nn.Module):
    def __init__(self, config: ItemMeansConfig) -> None:
        super().__init__()
        self.config = config
        self.table = nn.Embedding(config.num_items, config.item_dim)

    def forward(self, item_row_BN: Tensor) -> Tensor:
        """Unit queries [B, E] of histories padded with -1."""
        real_BN1 = (item_row_BN >= 0).unsqueeze(-1)
        total_BE = (self.table(item_row_BN.clamp(min=0)) * real_BN1).sum(1)
        return F.normalize(total_BE, dim=-1)

    @torch.no_grad()
    def item_vectors(self) -> Tensor:
        return F.normalize(self.table.weight, dim=-1)
