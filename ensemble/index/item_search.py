"""Search of the item index, whatever its kind.

Shapes: V items, Q query embeddings, E item width, X left-out items, K items wanted, F found by the index.
"""

from math import ceil
from pathlib import Path
from typing import Protocol

import faiss
import numpy as np

from ensemble.arrays import Floats, Int64s
from ensemble.index.twins import Twins
from unipinrec.bundle import INDEX_TUNED_FOR


class NearestItems(Protocol):
    """A search of the item index, wherever it is."""

    items: int

    def nearest(self, query_QE: Floats, count: int, left_out_X: Int64s) -> Int64s:
        """Return item rows [Q, K] of largest inner product, best first, none of them left out."""


class ItemSearch:
    """Rows of the nearest items."""

    def __init__(self, index: faiss.Index) -> None:
        self.index = index
        self.items: int = index.ntotal
        self.twins = Twins.of(index)
        """Items that share a vector, where the index is a graph and has some."""
        self._all_items = np.full(ceil(self.items / 8), 255, np.uint8)

    @classmethod
    def open(cls, path: Path, threads: int) -> "ItemSearch":
        """Return the search of an index file; the number of threads holds for the whole process."""
        faiss.omp_set_num_threads(threads)
        return cls(faiss.read_index(str(path)))

    def nearest(self, query_QE: Floats, count: int, left_out_X: Int64s) -> Int64s:
        """Return item rows [Q, K] of largest inner product, best first, none of them left out.

        `PADDING` stands where an approximate index finds fewer than `count`, or fewer are left. Left-out
        items are skipped inside the search: fetching as many more and dropping them gives the same items and
        takes up to twice as long in a small catalogue, as long in a large one (docs/performance.md).
        """
        found = min(count, self.items)
        if self.twins is None:
            return self._search(query_QE, found, left_out_X)
        left_out_X = np.unique(left_out_X)
        first_QF = self._search(query_QE, found, self.twins.wholly_in(left_out_X))
        return self.twins.spread(first_QF, found, left_out_X)

    def _search(self, query_QE: Floats, count: int, left_out_X: Int64s) -> Int64s:
        parameters = self._parameters(count + len(left_out_X), self._selector(left_out_X))
        item_row_QF: Int64s = self.index.search(query_QE, count, params=parameters)[1]
        return item_row_QF

    def _selector(self, left_out_X: Int64s) -> faiss.IDSelector | None:
        if not len(left_out_X):
            return None
        allowed = self._all_items.copy()
        np.bitwise_and.at(allowed, left_out_X >> 3, ~(1 << (left_out_X & 7)).astype(np.uint8))
        return faiss.IDSelectorBitmap(allowed)

    def _parameters(self, reach: int, selector: faiss.IDSelector | None) -> faiss.SearchParameters:
        """Effort in proportion to how far the search must reach, left-out items included.

        A user's own items are often the nearest, and an approximate index that stopped at `count` would have
        seen little else.
        """
        effort = max(1.0, reach / INDEX_TUNED_FOR)
        if isinstance(self.index, faiss.IndexHNSW):
            return faiss.SearchParametersHNSW(sel=selector, efSearch=ceil(self.index.hnsw.efSearch * effort))
        if isinstance(self.index, faiss.IndexIVF):
            probes = min(self.index.nlist, ceil(self.index.nprobe * effort))
            return faiss.SearchParametersIVF(
                sel=selector, nprobe=probes, quantizer_params=faiss.SearchParametersHNSW(efSearch=2 * probes)
            )
        return faiss.SearchParameters(sel=selector)
