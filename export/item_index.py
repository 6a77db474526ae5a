"""The item index: a FAISS index over the embedder's unit vectors, for search by inner product.

It is held against exact search before it may enter a bundle.

Shapes: V items, E item width, G items whose vectors differ, Q queries, K nearest, X sampled items or twins.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import isqrt
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from unipinrec.bundle import INDEX_KINDS, INDEX_TUNED_FOR, IndexKind

Floats = NDArray[np.float32]

AUTO = "auto"
CHOICES = (*INDEX_KINDS, AUTO)
"""What an export may ask for."""

EXACT_UP_TO = 30_000
"""Largest catalogue for which `auto` takes `flat`: exact search of so many takes 1.3 ms, of 100,000 4 ms.

Beyond it `auto` takes `hnsw`, .5 ms and .7 ms at 100,000 and a million items with recall@100 .998 and .997.
`ivf_hnsw` builds six times as fast, but relies on clusters: where there are hardly any, its recall@100 at
100,000 items is .84 against .99 (docs/performance.md; benchmarks/results/bench)."""

HNSW_NEIGHBOURS = 32
"""M of HNSW: neighbours of a node, twice as many on the lowest layer. More find more; each costs 8 bytes."""

HNSW_CONSTRUCTION = 200
"""efConstruction of HNSW: nodes kept in sight to insert one. Half of it builds twice as fast, finds less."""

HNSW_SEARCH = 200
"""efSearch of HNSW: nodes kept in sight while `INDEX_TUNED_FOR` items are sought."""

IVF_PROBES = 64
"""nprobe of IVF: lists scanned while `INDEX_TUNED_FOR` items are sought."""

IVF_SAMPLE = 64
"""Items for each list that k-means is trained on. Four times as many find no more."""

SMALLEST_LIST = 8
"""Mean items of a list at least, which small catalogues would fall below."""

DECIMALS = 6
"""Vectors that agree so far are one: rounding alone tells them apart, and their scores differ by less than
1e-5."""

LEAST_RECALL: dict[IndexKind, float] = {"flat": 0.0, "hnsw": 0.95, "ivf_hnsw": 0.8, "sq8": 0.8}
"""Recall@100 below which no index of a kind is exported. Usual catalogues lie far above it, and crowds of
nearly equal vectors below."""

QUERIES = 64
SAMPLE = 4096
"""Items out of which those far from each other are taken for queries, so that no crowd hides the rest."""

NOISE = 0.3
"""Length of what is added to an item's unit vector to make a query of it."""

SAME_SCORE = 1e-5
"""Scores that differ by less are equal."""


class UnknownIndexError(ValueError):
    """A kind of index that there is not."""


class IndexRecallError(ValueError):
    """An approximate index finds too few of the nearest items of this catalogue."""


def build_checked(choice: str, vector_VE: Floats, report: Callable[[str], None]) -> tuple[IndexKind, Any]:
    """Return the index of `choice` over `vector_VE`, and its kind, once it finds what exact search does.

    Where it does not, `auto` turns to `flat` and reports why in one line.

    Raises `UnknownIndexError` if there is no such index, `IndexRecallError` if its recall is below
    `LEAST_RECALL`.
    """
    kind = choose_kind(choice, len(vector_VE))
    index = build_index(kind, vector_VE)
    least = LEAST_RECALL[kind]
    found = recall(index, vector_VE) if least else 1.0
    if found >= least:
        return kind, index
    finding = f"recall@{INDEX_TUNED_FOR} of {kind} is {found:.3f} over these vectors, many nearly equal"
    if choice != AUTO:
        raise IndexRecallError(f"{finding}; allowed: {least} to 1, or --index flat, which is exact")
    report(f"{finding}, and at least {least} is wanted; flat is taken, which is exact")
    return "flat", build_index("flat", vector_VE)


def recall(index: Any, vector_VE: Floats) -> float:
    """Return the mean recall@`INDEX_TUNED_FOR` of queries near items that lie far from each other.

    A found item counts if its score is among the largest, so that equal ones stand for each other.
    """
    # A graph reaches one item of each vector; the search adds the others.
    graph = isinstance(index, faiss.IndexHNSW)
    reached_XE = vector_VE[np.unique(first_of_each(vector_VE))] if graph else vector_VE
    query_QE = _scattered_queries(reached_XE)
    count = min(INDEX_TUNED_FOR, len(reached_XE))
    with one_thread():
        best_QK = faiss.knn(query_QE, reached_XE, count, faiss.METRIC_INNER_PRODUCT)[0]
        row_QK = index.search(query_QE, count)[1]
    score_QK = np.einsum("qke,qe->qk", vector_VE[row_QK], query_QE)
    return float(((row_QK >= 0) & (score_QK >= best_QK[:, -1:] - SAME_SCORE)).mean())


def _scattered_queries(vector_XE: Floats) -> Floats:
    """Queries near items of which each is as far as can be from those before it."""
    draw = np.random.default_rng(0)
    sample_XE = vector_XE[draw.permutation(len(vector_XE))[:SAMPLE]]
    chosen = [0]
    closest_X = np.full(len(sample_XE), -np.inf, np.float32)
    while len(chosen) < min(QUERIES, len(sample_XE)):
        closest_X = np.maximum(closest_X, sample_XE @ sample_XE[chosen[-1]])
        chosen.append(int(closest_X.argmin()))
    width = vector_XE.shape[1]
    near_QE = sample_XE[chosen] + draw.normal(scale=NOISE / np.sqrt(width), size=(len(chosen), width))
    query_QE: Floats = (near_QE / np.linalg.norm(near_QE, axis=1, keepdims=True)).astype(np.float32)
    return query_QE


def choose_kind(choice: str, items: int) -> IndexKind:
    """Return the kind of index that a catalogue of `items` gets.

    Raises `UnknownIndexError` if `choice` is none of `CHOICES`.
    """
    if choice == AUTO:
        return "flat" if items <= EXACT_UP_TO else "hnsw"
    if choice in INDEX_KINDS:
        return choice
    raise UnknownIndexError(f"index is {choice}; allowed: {', '.join(CHOICES)}")


def build_index(kind: IndexKind, vector_VE: Floats) -> Any:
    """Return an index of the rows of `vector_VE`, its search parameters set for `INDEX_TUNED_FOR` items.

    Built by one thread: HNSW links what several threads insert in the order of their race, and a bundle's id
    is a hash of its files. Equal vectors make equal files on processors with the same vector instructions.

    - `flat` compares every item and is exact.
    - `hnsw` walks a graph of neighbours (Malkov and Yashunin, arXiv 1603.09320).
    - `ivf_hnsw` scans the lists of the nearest of about 4 sqrt(V) centroids, which HNSW finds
      (PinRec, arXiv 2504.10507, §2.8).
    - `sq8` compares every item by 8 bits a coordinate, in a quarter of the memory.

    Graphs hold each vector once, whether of items or of centroids: many equal ones would be all that a walk
    finds. `add_twins` says how the other items with an item's vector are kept.
    """
    width = vector_VE.shape[1]
    with one_thread():
        if kind in ("flat", "sq8"):
            eight_bits = (width, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT)
            index = faiss.IndexFlatIP(width) if kind == "flat" else faiss.IndexScalarQuantizer(*eight_bits)
            index.train(vector_VE)
            index.add(vector_VE)
            return index
        first_V = first_of_each(vector_VE)
        vector_GE = vector_VE[np.unique(first_V)]
        graph = faiss.IndexHNSWFlat(width, HNSW_NEIGHBOURS, faiss.METRIC_INNER_PRODUCT)
        graph.hnsw.efConstruction = HNSW_CONSTRUCTION
        graph.hnsw.efSearch = HNSW_SEARCH
        if kind == "hnsw":
            graph.add(vector_GE)
            if len(vector_GE) < len(vector_VE):
                add_twins(graph, vector_VE, first_V)
            return graph
        lists = max(1, min(4 * isqrt(len(vector_GE)), len(vector_GE) // SMALLEST_LIST))
        index = faiss.IndexIVFFlat(graph, width, lists, faiss.METRIC_INNER_PRODUCT)
        # A graph cannot be a k-means quantiser while its centroids move: train with a flat one, then insert.
        index.quantizer_trains_alone = 2
        index.cp.min_points_per_centroid = 1
        index.cp.max_points_per_centroid = IVF_SAMPLE
        index.nprobe = IVF_PROBES
        index.train(vector_GE)
        index.add(vector_VE)
        return index


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


@contextmanager
def one_thread() -> Iterator[None]:
    """Let FAISS use one thread within; results do not depend on a race then."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
