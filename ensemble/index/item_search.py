"""Search of the item index, whatever its kind.

Shapes: V items, Q query embeddings, E item width, X left-out items, G items that are gone, K items wanted, F
found by the index.
"""

from math import ceil
from pathlib import Path
from typing import Protocol

import faiss
import numpy as np
from numpy.typing import NDArray

from ensemble.arrays import PADDING, Floats, Int64s
from ensemble.index.twins import Twins
from unipinrec.bundle import INDEX_TUNED_FOR

NOTHING: Int64s = np.empty(0, np.int64)

MOST_FOR_GONE = 4.0
"""Times that the share of items that are gone raises the effort, at most."""


class NearestItems(Protocol):
    """A search of the item index, wherever it is."""

    items: int

    def nearest(self, query_QE: Floats, count: int, left_out_X: Int64s, gone_G: Int64s = NOTHING) -> Int64s:
        """Return item rows [Q, K] of largest inner product, best first, none of them left out or gone."""


class ItemSearch:
    """Rows of the nearest items."""

    def __init__(self, index: faiss.Index) -> None:
        self.index = index
        self.items: int = index.ntotal
        self.twins = Twins.of(index)
        """Items that share a vector, where the index is a graph and has some."""
        self._gone = NOTHING
        self._allowed = np.full(ceil(self.items / 8), 255, np.uint8)
        """A bit for each item that is not gone."""

    @classmethod
    def open(cls, path: Path, threads: int) -> "ItemSearch":
        """Return the search of an index file; the number of threads holds for the whole process."""
        faiss.omp_set_num_threads(threads)
        return cls(faiss.read_index(str(path)))

    def nearest(self, query_QE: Floats, count: int, left_out_X: Int64s, gone_G: Int64s = NOTHING) -> Int64s:
        """Return item rows [Q, K] of largest inner product, best first, none of them left out or gone.

        `PADDING` stands where an approximate index finds fewer than `count`, or fewer are left. Left-out
        items are skipped inside the search: fetching as many more and dropping them gives the same items and
        takes up to twice as long in a small catalogue, as long in a large one (docs/performance.md). They are
        often the nearest, so that the search reaches further by all of them. Those that are gone are
        anywhere: it reaches further by their share alone, and by more where it has found too few.
        """
        found = min(count, self.items)
        if gone_G is not self._gone:
            self._gone, self._allowed = gone_G, self._bits(np.full_like(self._allowed, 255), gone_G)
        reach = found + len(left_out_X)
        if self.twins is None:
            left = self.items - len(left_out_X) - len(gone_G)
            return self._search(query_QE, found, self._selector(left_out_X), reach, left)
        all_out_X = np.union1d(left_out_X, gone_G)
        out_X = self.twins.wholly_in(all_out_X)
        firsts = self._bits(np.full_like(self._allowed, 255), out_X)
        selector = faiss.IDSelectorBitmap(firsts) if len(out_X) else None
        left = len(self.twins.firsts) - len(out_X)
        return self.twins.spread(self._search(query_QE, found, selector, reach, left), found, all_out_X)

    def _search(
        self, query_QE: Floats, count: int, selector: faiss.IDSelector | None, reach: int, left: int
    ) -> Int64s:
        """`left` are items, at least, that may be found."""
        last = max(0, min(count, left) - 1)
        reach = ceil(reach * min(MOST_FOR_GONE, self.items / max(1, self.items - len(self._gone))))
        while True:
            parameters = self._parameters(reach, selector)
            item_row_QF: Int64s = self.index.search(query_QE, count, params=parameters)[1]
            if not len(self._gone) or reach >= self.items or (item_row_QF[:, last] != PADDING).all():
                return item_row_QF
            reach = min(4 * reach, self.items)

    def _selector(self, left_out_X: Int64s) -> faiss.IDSelector | None:
        if not len(left_out_X) and not len(self._gone):
            return None
        return faiss.IDSelectorBitmap(self._bits(self._allowed, left_out_X))

    def _bits(self, allowed: NDArray[np.uint8], item_row_X: Int64s) -> NDArray[np.uint8]:
        """A copy of bits with those of some items cleared."""
        cleared = allowed.copy()
        np.bitwise_and.at(cleared, item_row_X >> 3, ~(1 << (item_row_X & 7)).astype(np.uint8))
        return cleared

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
