"""Search of a bundle's items in Milvus.

Shapes: Q query embeddings, E item width, X left-out items, G items that are gone, K items wanted.
"""

import numpy as np

from ensemble.arrays import PADDING, Floats, Int64s
from ensemble.index.item_search import NOTHING
from ensemble.index.milvus.collection import Collection
from ensemble.index.unavailable import IndexUnavailableError

MOST_WANTED = 16_384
"""Items that Milvus finds for a query at most."""


class MilvusSearch:
    """Rows of the nearest items, as Milvus finds them."""

    def __init__(self, collection: Collection, items: int) -> None:
        """Raises `IndexUnavailableError` unless the collection holds a bundle's items, all of them."""
        found = collection.count()
        if found != items:
            raise IndexUnavailableError(
                f"the collection {collection.name} "
                f"{'is not there' if found is None else f'has {found} of {items} items'}; "
                "`unipinrec index push` fills it"
            )
        collection.load()
        self.items = items
        self._collection = collection

    def nearest(self, query_QE: Floats, count: int, left_out_X: Int64s, gone_G: Int64s = NOTHING) -> Int64s:
        """Return item rows [Q, K] of largest inner product, best first, none of them left out or gone.

        `PADDING` stands where fewer are found. Raises `IndexUnavailableError` if Milvus does not answer.
        """
        found = min(count, self.items, MOST_WANTED)
        out_X = np.union1d(left_out_X, gone_G)
        item_row_QK = self._collection.search(query_QE, found, out_X)
        return np.pad(item_row_QK, ((0, 0), (0, count - found)), constant_values=PADDING)
