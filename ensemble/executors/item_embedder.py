"""Vectors of items that are described while their bundle is served, by the embedders that it holds.

Shapes: N items, X attributes of an item, F content width, E item width, S width of the second ranker's.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from ensemble.arrays import Floats, Int64s
from ensemble.loaded_bundle import LoadedBundle
from ensemble.stores.catalogue_store import Item
from unipinrec.data.history import rows_of
from unipinrec.graph import load_graph
from unipinrec.models.common.item_graph import EMBEDDER
from unipinrec.models.config import ItemConfig

TOGETHER = 1_024
"""Items of one forward."""


class BundleEmbedder:
    """Makes of an item what an export would have made of it, had training never seen it; of one that it saw,
    with its id."""

    def __init__(self, loaded: LoadedBundle) -> None:
        self._config = loaded.manifest.model
        self._content_dim = loaded.manifest.content_dim
        self._attribute_ids = loaded.attribute_ids()
        self._graph = load_graph(loaded.model_folder / EMBEDDER)
        ranker = loaded.second_ranker()
        self._second_config = ranker[1] if ranker else None
        self._second = load_graph(ranker[0] / EMBEDDER) if ranker else None

    def unknown_attributes(self, item: Item) -> int:
        """Return how many attributes of an item the bundle has no numbers for; they count for nothing."""
        return len(item.attributes) - len(self._numbers(item))

    @torch.inference_mode()
    def __call__(self, items: Sequence[Item], base_row_N: Int64s) -> tuple[Floats, Floats]:
        """Return vectors [N, E] and those of the second ranker [N, S], S being 0 without one. `base_row_N`
        are the items' rows in the bundle, -1 for those that it does not have."""
        width = 0 if self._second_config is None else self._second_config.item_dim
        vector_NE = np.empty((len(items), self._config.item_dim), np.float32)
        second_NS = np.empty((len(items), width), np.float32)
        for first in range(0, len(items), TOGETHER):
            part = slice(first, first + TOGETHER)
            content_NF = self._content(items[part])
            row_N = torch.from_numpy(base_row_N[part])
            made_NE = self._embed(self._graph, self._config, row_N, items[part], content_NF)
            vector_NE[part] = made_NE.numpy()
            if self._second is not None and self._second_config is not None:
                if self._second_config.content_dim == self._content_dim + self._config.item_dim:
                    # As `unipinrec.models.transact.objective.describe` gives them.
                    content_NF = torch.cat([content_NF, made_NE * made_NE.size(1) ** 0.5], dim=1)
                made_NS = self._embed(self._second, self._second_config, row_N, items[part], content_NF)
                second_NS[part] = made_NS.numpy()
        return vector_NE, second_NS

    def _embed(
        self,
        graph: Callable[..., Tensor],
        config: ItemConfig,
        row_N: Tensor,
        items: Sequence[Item],
        content_NF: Tensor,
    ) -> Tensor:
        attribute_NX = np.zeros((len(items), config.max_attributes), np.int64)
        for place, item in enumerate(items):
            numbers = self._numbers(item)[: config.max_attributes]
            attribute_NX[place, : len(numbers)] = numbers + 1
        return graph(row_N, torch.from_numpy(attribute_NX), content_NF[:, : config.content_dim])

    def _numbers(self, item: Item) -> Int64s:
        if not item.attributes or not len(self._attribute_ids):
            return np.empty(0, np.int64)
        number = rows_of(self._attribute_ids, np.array(item.attributes, np.int64))
        return number[number >= 0]

    def _content(self, items: Sequence[Item]) -> Tensor:
        content_NF = torch.zeros(len(items), self._content_dim)
        for place, item in enumerate(items):
            if item.content:
                content_NF[place] = torch.tensor(item.content)
        return content_NF
