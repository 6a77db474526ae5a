"""The embedder as a bundle holds it: vectors of items that are described while it is served.

Shapes: N items, X attributes of an item, F content width, E item width.
"""

import torch
from torch import Tensor, nn

from unipinrec.models.common.embedder import ItemEmbedder
from unipinrec.models.common.exports import Graph

EMBEDDER = "embedder.pt"
"""Name of the graph in a model's folder of a bundle."""
PROBED = 64
"""Items by which the graph is compared with the embedder."""


class ItemGraph(nn.Module):
    """Descriptions of items to vectors."""

    def __init__(self, embedder: ItemEmbedder) -> None:
        super().__init__()
        self.embedder = embedder

    def forward(self, item_row_N: Tensor, attribute_NX: Tensor, content_NF: Tensor) -> Tensor:
        """Return unit vectors [N, E]. An item that was among those of the training has its row and so its id;
        -1 stands for one that was not. Attributes are numbers from 1 on, padded with 0."""
        row_N = item_row_N.clamp(min=0)
        known_N = (item_row_N >= 0) & ~self.embedder.cold_V[row_N]
        return self.embedder.embed(row_N, known_N, attribute_NX, content_NF)


def item_graph(embedder: ItemEmbedder) -> Graph:
    """Return the graph of an embedder, compared on its own items, and on the same as if they were new."""
    row_N = torch.arange(min(PROBED, len(embedder.cold_V)))
    described = (embedder.attribute_VX[row_N], embedder.content_VF[row_N])
    unknown_N = torch.full_like(row_N, -1)
    first = (unknown_N[:1], *(tensor[:1] for tensor in described))
    return Graph(ItemGraph(embedder), [(row_N, *described), (unknown_N, *described), first])
