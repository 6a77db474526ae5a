"""Item rows to L2-normalised item vectors.

Shapes: ... any leading axes, V items, H hash functions, X attributes of an item, F content width,
E item width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unipinrec.models.common.catalogue import Catalogue
from unipinrec.models.common.projection import Projection
from unipinrec.models.config import ItemConfig


class ItemEmbedder(nn.Module):
    """The trainable embedder that history, index and candidates share (UniPinRec §1.2, PinRec §2.3).

    Hashed id embedding, attribute embeddings and dense content, joined, through an MLP. Its outputs are
    stored in the item index, so that retrieval and ranking see identical vectors.
    """

    def __init__(self, config: ItemConfig) -> None:
        super().__init__()
        items, hashes = config.num_items, config.id_hashes
        self.id_table = nn.Embedding(hashes * (config.id_rows or items), config.id_dim // hashes)
        # Small enough that a few hundred optimiser steps move an item across the space.
        nn.init.normal_(self.id_table.weight, std=0.05)
        joined = config.id_dim + config.content_dim
        self.attribute_table: nn.Embedding | None = None
        if config.max_attributes:
            joined += config.attribute_dim
            self.attribute_table = nn.Embedding(config.num_attributes + 1, config.attribute_dim)
            nn.init.normal_(self.attribute_table.weight, std=0.05)
        self.project = Projection(joined, 2 * config.id_dim, config.item_dim)
        known = Catalogue.of_rows(config)
        self.id_slot_VH: Tensor = nn.Buffer(known.id_slot_VH)
        self.attribute_VX: Tensor = nn.Buffer(known.attribute_VX)
        self.content_VF: Tensor = nn.Buffer(known.content_VF)
        self.cold_V: Tensor = nn.Buffer(known.cold_V)

    @torch.no_grad()
    def describe(self, catalogue: Catalogue) -> None:
        """Take over what is known of the items.

        Raises `ValueError` if a tensor has another shape than the configuration says.
        """
        for name, tensor in catalogue.tensors().items():
            own = self.get_buffer(name)
            if own.shape != tensor.shape:
                raise ValueError(f"{name} has shape {tuple(tensor.shape)}; allowed: {tuple(own.shape)}")
            own.copy_(tensor)

    def forward(self, item_row: Tensor, hidden_ids: Tensor | None = None) -> Tensor:
        """Turn item rows [...] (padding may be -1, its vector is meaningless) into unit vectors [..., E].

        Ids of cold items are hidden, and those that `hidden_ids` [...] marks.
        """
        row = item_row.clamp(min=0)
        known = ~self.cold_V[row]
        if hidden_ids is not None:
            known = known & ~hidden_ids
        return self.embed(row, known, self.attribute_VX[row], self.content_VF[row])

    def embed(self, row: Tensor, known: Tensor, attribute: Tensor, content: Tensor) -> Tensor:
        """Turn attributes [..., X], content [..., F] and, where `known`, the ids of rows [...] into unit
        vectors [..., E]."""
        identity = self.id_table(self.id_slot_VH[row]).flatten(-2)
        parts = [identity * known.unsqueeze(-1).to(identity.dtype)]
        if self.attribute_table is not None:
            given = (attribute > 0).unsqueeze(-1)
            # Over the root of the number: as long, on average, for many attributes as for one.
            parts.append(
                (self.attribute_table(attribute) * given).sum(-2) / given.sum(-2).clamp(min=1).sqrt()
            )
        if content.size(-1) > 0:
            parts.append(content.to(identity.dtype))
        return F.normalize(self.project(torch.cat(parts, dim=-1)), dim=-1)

    @torch.no_grad()
    def all_vectors(self) -> Tensor:
        """Return the vectors of the whole catalogue, [V, E]."""
        vector: Tensor = self(torch.arange(len(self.cold_V), device=self.cold_V.device))
        return vector
