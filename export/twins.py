"""Keeps items with the vector of an earlier item, twins, out of a graph of neighbours.

Shapes: V items, E item width, G first items of their groups.
"""

from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

DECIMALS = 6
"""Vectors that agree so far are one: rounding alone tells them apart, and their scores differ by less than
1e-5."""


def first_of_each(vector_VE: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return every item's first twin, with the same vector up to `DECIMALS`: [V], mostly the item itself."""
    # Adding 0 makes one zero of both.
    rounded_VE = np.ascontiguousarray(vector_VE.round(DECIMALS) + np.float32(0))
    bytes_V = rounded_VE.view(np.dtype((np.void, rounded_VE.strides[0]))).ravel()
    _, first_G, group_V = np.unique(bytes_V, return_index=True, return_inverse=True)
    first_V: NDArray[np.int64] = first_G[group_V]
    return first_V


def add_twins(index: Any, vector_VE: NDArray[np.float32], first_V: NDArray[np.int64]) -> None:
    """Widen an HNSW graph over the first items of `first_V` to all items, of which twins are never reached.

    No node links to a twin; the twin links to itself, which no other node does, and to the first of its
    group. So any FAISS reads the file, and `ensemble.index.twins` finds the groups in it.
    """
    row_V = np.arange(len(first_V))
    linked_V = first_V == row_V
    row_G, twin_X = np.flatnonzero(linked_V), np.flatnonzero(~linked_V)
    hnsw = index.hnsw
    level_V = np.ones(len(first_V), np.int32)
    level_V[row_G] = faiss.vector_to_array(hnsw.levels)
    # Slots of a node's links in all of its levels.
    slots_V = faiss.vector_to_array(hnsw.cum_nneighbor_per_level)[level_V]
    offset_V = np.concatenate([[0], np.cumsum(slots_V)]).astype(np.uint64)
    link_G = faiss.vector_to_array(hnsw.neighbors)
    link_V = np.full(int(offset_V[-1]), -1, np.int32)
    link_V[np.repeat(linked_V, slots_V)] = np.where(link_G >= 0, row_G[link_G], -1)
    link_V[offset_V[twin_X]] = twin_X
    link_V[offset_V[twin_X] + np.uint64(1)] = first_V[twin_X]
    faiss.copy_array_to_vector(level_V, hnsw.levels)
    faiss.copy_array_to_vector(offset_V, hnsw.offsets)
    faiss.copy_array_to_vector(link_V, hnsw.neighbors)
    hnsw.entry_point = int(row_G[hnsw.entry_point])
    storage = faiss.downcast_index(index.storage)
    storage.reset()
    storage.add(vector_VE)
    index.ntotal = len(first_V)
