"""Items that have the vector of an earlier item: twins. Of each group a graph links the first item alone.

A graph of neighbours cannot hold many equal vectors: each has only its equals for neighbours, and a walk that
comes among them finds nothing else. `export.item_index` writes what this module reads.

Shapes: V items, Q query embeddings, F items found, X left-out items, K items wanted.
"""

from typing import Any, Self

import faiss
import numpy as np

from ensemble.arrays import PADDING, Int64s


class Twins:
    """Which items share a vector, so that one found item stands for all of its group."""

    def __init__(self, first_V: Int64s) -> None:
        """`first_V` is the first item with the same vector, of every item."""
        self.first_V = first_V
        self.size_V: Int64s = np.bincount(first_V, minlength=len(first_V))
        """Items of the group, for its first item; 0 for the others."""
        self._start_V = np.cumsum(self.size_V) - self.size_V
        self._member_V: Int64s = np.argsort(first_V, kind="stable")

    @classmethod
    def of(cls, index: faiss.Index) -> Self | None:
        """Return the twins that a graph holds, None where there are none. A twin is linked to itself, which
        no other node is, and then to the first of its group."""
        if not isinstance(index, faiss.IndexHNSW) or index.ntotal < 2:
            return None
        neighbours = index.hnsw.neighbors
        linked: Any = faiss.rev_swig_ptr(neighbours.data(), neighbours.size())
        start_V = faiss.vector_to_array(index.hnsw.offsets)[:-1].astype(np.int64)
        row_V = np.arange(index.ntotal)
        twin_V = linked[start_V] == row_V
        return cls(np.where(twin_V, linked[start_V + 1], row_V).astype(np.int64)) if twin_V.any() else None

    @property
    def firsts(self) -> Int64s:
        """The first item of each group, ascending."""
        return np.flatnonzero(self.size_V)

    def wholly_in(self, left_out_X: Int64s) -> Int64s:
        """Return the first items of groups whose every item is left out; no item may be named twice."""
        first_X, count_X = np.unique(self.first_V[left_out_X], return_counts=True)
        gone: Int64s = first_X[count_X == self.size_V[first_X]]
        return gone

    def spread(self, first_QF: Int64s, count: int, left_out_X: Int64s) -> Int64s:
        """Return item rows [Q, K]: the found first items, each with the rest of its group, ascending.
        Left-out items are skipped, and `PADDING` stands where too few are left."""
        row_QK = np.full((len(first_QF), count), PADDING, np.int64)
        for place, first_F in enumerate(first_QF):
            row = self._members(first_F[first_F >= 0], count + len(left_out_X))
            kept = row[~np.isin(row, left_out_X)][:count] if len(left_out_X) else row[:count]
            row_QK[place, : len(kept)] = kept
        return row_QK

    def _members(self, first_F: Int64s, most: int) -> Int64s:
        """Items of the groups in their order, at least `most` if there are as many."""
        size_F = np.minimum(self.size_V[first_F], most)
        end_F = np.cumsum(size_F)
        groups = int(np.searchsorted(end_F, most)) + 1
        size_F, end_F, start_F = size_F[:groups], end_F[:groups], self._start_V[first_F[:groups]]
        total = int(end_F[-1]) if len(end_F) else 0
        member: Int64s = self._member_V[np.arange(total) + np.repeat(start_F - end_F + size_F, size_F)]
        return member
