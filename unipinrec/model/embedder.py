"""Item rows to L2-normalised item vectors.

Shapes: ... any leading axes, E item width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unipinrec.config import ModelConfig


class ItemEmbedder(nn.Module):
    """The trainable embedder that history, index and candidates share (UniPinRec §1.2).

    Its outputs are stored in the item index, so that retrieval and ranking see identical vectors.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.id_table = nn.Embedding(config.num_items, config.id_dim)
        # Small enough that a few hundred optimiser steps move an item across the space.
        nn.init.normal_(self.id_table.weight, std=0.05)
        # A straight path beside the MLP lets each item's own row learn from the first step on.
        self.straight = nn.Linear(config.id_dim, config.item_dim, bias=False)
        self.mlp = nn.Sequential(
            nn.Linear(config.id_dim, 2 * config.id_dim),
            nn.GELU(),
            nn.Linear(2 * config.id_dim, config.item_dim),
        )

    def forward(self, item_row: Tensor) -> Tensor:
        """Item rows [...] (padding may be -1, its vector is meaningless) to unit vectors [..., E]."""
        row = self.id_table(item_row.clamp(min=0))
        return F.normalize(self.straight(row) + self.mlp(row), dim=-1)

    @torch.no_grad()
    def all_vectors(self) -> Tensor:
        """The vectors of the whole catalogue, [num_items, E]."""
        rows = torch.arange(self.id_table.num_embeddings, device=self.id_table.weight.device)
        vector: Tensor = self(rows)
        return vector
