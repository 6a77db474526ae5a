"""Recall, latency, build time and size of every kind of item index, against exact search in NumPy.

Shapes: V items, Q queries, E width, K nearest, X left-out items.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from benchmarks.synthetic_vectors import GENERATOR, LEARNED_NOISE, Floats, draw_clustered
from ensemble.contract import Int64s
from ensemble.item_search import ItemSearch
from experiments.report import Machine
from export.item_index import (
    EXACT_UP_TO,
    HNSW_CONSTRUCTION,
    HNSW_NEIGHBOURS,
    HNSW_SEARCH,
    IVF_PROBES,
    IVF_SAMPLE,
    build_index,
)
from unipinrec.bundle import INDEX_KINDS, INDEX_TUNED_FOR, IndexKind
from unipinrec.config import Config

WIDTH = 128
QUERIES = 1_000
TIMED_QUERIES = 500
TIMED_BATCHES = 30
BATCH = 16
SEED = 7
SWEEP = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Multiples of the search parameter that the index stores."""
BUDGET = 128
LEFT_OUT = 500
NOTHING: Int64s = np.empty(0, np.int64)

Search = Callable[[int], object]
"""Does the search for one query, given its number."""


class Latency(Config):
    """Wall time on one thread."""

    median_ms: float
    p99_ms: float


class Point(Config):
    """One setting of the search parameter, for `INDEX_TUNED_FOR` items."""

    parameter: str
    """`efSearch`, `nprobe`, or empty for an index that compares every item."""
    value: int
    stored: bool
    """Whether this is what the index stores, and so what is served."""
    recall_at_100: float
    single: Latency
    batch_of_16_ms: float
    """Median of the whole batch in one call."""


class LeftOut(Config):
    """The `LEFT_OUT` nearest items left out of a search for the `BUDGET` nearest others: the hardest case."""

    recall_skipped: float
    """Left-out items skipped inside the search, as served."""
    skipped: Latency
    recall_fetched: float
    """As many more fetched, and the left-out ones dropped."""
    fetched: Latency


class Measured(Config):
    """One kind of index over one catalogue."""

    kind: IndexKind
    items: int
    build_seconds: float
    index_bytes: int
    points: tuple[Point, ...]
    left_out: LeftOut
    gathered: Latency
    """Search, and the vectors found out of the array of all: as served."""
    reconstructed: Latency
    """Search, and the vectors found out of the index."""

    @property
    def served(self) -> Point:
        """The point with the parameter that the index stores."""
        return next(point for point in self.points if point.stored)


class AnnReport(Config):
    """What `unipinrec bench-ann` found."""

    synthetic: bool = True
    generator: str = GENERATOR
    noise: float
    """Of `draw_clustered`; the larger, the weaker the clusters."""
    width: int = WIDTH
    queries: int = QUERIES
    timed_queries: int = TIMED_QUERIES
    seed: int = SEED
    machine: Machine
    faiss: str
    build_threads: int = 1
    search_threads: int = 1
    parameters: dict[str, int]
    measured: tuple[Measured, ...]

    def write(self, path: Path) -> None:
        """Write the report as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.model_dump_json(indent=1) + "\n")


def measure(sizes: Sequence[int], report: Callable[[str], None], noise: float = LEARNED_NOISE) -> AnnReport:
    """Every kind at every size; `report` gets one line for every index."""
    measured = []
    for items in sizes:
        report(f"{items:,} items x {WIDTH}: drawing vectors, searching exactly in NumPy")
        vector_VE, query_QE = draw_clustered(items, QUERIES, WIDTH, SEED, noise)
        nearest_QK = search_exactly(vector_VE, query_QE, min(items, BUDGET + LEFT_OUT))
        for kind in INDEX_KINDS:
            found = _measure(kind, vector_VE, query_QE, nearest_QK)
            measured.append(found)
            report(
                f"{items:,} items, {kind}: built in {found.build_seconds:.1f} s, "
                f"recall@100 {found.served.recall_at_100:.4f}, {found.served.single.median_ms:.2f} ms"
            )
    return AnnReport(
        noise=noise,
        machine=Machine.here().model_copy(update={"threads": 1}),
        faiss=f"{faiss.__version__} ({faiss.get_compile_options().strip()})",
        parameters={
            "M": HNSW_NEIGHBOURS,
            "efConstruction": HNSW_CONSTRUCTION,
            "efSearch": HNSW_SEARCH,
            "nprobe": IVF_PROBES,
            "k_means_items_per_list": IVF_SAMPLE,
            "exact_up_to": EXACT_UP_TO,
        },
        measured=tuple(measured),
    )


def _measure(kind: IndexKind, vector_VE: Floats, query_QE: Floats, nearest_QK: Int64s) -> Measured:
    began = time.perf_counter()
    index = build_index(kind, vector_VE)
    build_seconds = time.perf_counter() - began
    faiss.omp_set_num_threads(1)
    wanted = INDEX_TUNED_FOR
    search = ItemSearch(index)

    def gather(query: int) -> object:
        found_1K = search.nearest(query_QE[query : query + 1], wanted, NOTHING)
        return vector_VE[found_1K]

    def reconstruct(query: int) -> object:
        return index.search_and_reconstruct(query_QE[query : query + 1], wanted)

    return Measured(
        kind=kind,
        items=len(vector_VE),
        build_seconds=build_seconds,
        index_bytes=faiss.serialize_index(index).nbytes,
        points=tuple(_sweep(index, query_QE, nearest_QK[:, :wanted])),
        left_out=_leave_out(index, query_QE, nearest_QK),
        gathered=_time(gather),
        reconstructed=_time(reconstruct),
    )


def _sweep(index: Any, query_QE: Floats, nearest_QK: Int64s) -> list[Point]:
    holder, name = _search_parameter(index)
    if not name:
        return [_point(index, query_QE, nearest_QK, "", 0, stored=True)]
    stored, points = getattr(holder, name), []
    for factor in SWEEP:
        value = round(stored * factor)
        setattr(holder, name, value)
        points.append(_point(index, query_QE, nearest_QK, name, value, stored=value == stored))
    setattr(holder, name, stored)
    return points


def _search_parameter(index: Any) -> tuple[Any, str]:
    """Where the index stores how much it searches, and under which name."""
    if isinstance(index, faiss.IndexHNSW):
        return index.hnsw, "efSearch"
    return index, "nprobe" if isinstance(index, faiss.IndexIVF) else ""


def _point(index: Any, query_QE: Floats, nearest_QK: Int64s, name: str, value: int, *, stored: bool) -> Point:
    search, wanted = ItemSearch(index), nearest_QK.shape[1]

    def one(query: int) -> object:
        return search.nearest(query_QE[query : query + 1], wanted, NOTHING)

    def batch(number: int) -> object:
        start = number * BATCH % (len(query_QE) - BATCH)
        return search.nearest(query_QE[start : start + BATCH], wanted, NOTHING)

    return Point(
        parameter=name,
        value=value,
        stored=stored,
        recall_at_100=recall(search.nearest(query_QE, wanted, NOTHING), nearest_QK),
        single=_time(one),
        batch_of_16_ms=_time(batch, TIMED_BATCHES).median_ms,
    )


def _leave_out(index: Any, query_QE: Floats, nearest_QK: Int64s) -> LeftOut:
    search = ItemSearch(index)
    left_out_QX, expected_QK = nearest_QK[:TIMED_QUERIES, :LEFT_OUT], nearest_QK[:TIMED_QUERIES, LEFT_OUT:]
    wanted = expected_QK.shape[1]

    def skip(query: int) -> Int64s:
        found_1K = search.nearest(query_QE[query : query + 1], wanted, left_out_QX[query])
        return found_1K.ravel()

    def fetch(query: int) -> Int64s:
        found_X = search.nearest(query_QE[query : query + 1], LEFT_OUT + wanted, NOTHING).ravel()
        return found_X[~np.isin(found_X, left_out_QX[query])][:wanted]

    return LeftOut(
        recall_skipped=recall([skip(query) for query in range(len(expected_QK))], expected_QK),
        skipped=_time(skip),
        recall_fetched=recall([fetch(query) for query in range(len(expected_QK))], expected_QK),
        fetched=_time(fetch),
    )


def search_exactly(vector_VE: Floats, query_QE: Floats, count: int) -> Int64s:
    """Rows of largest inner product, best first, by brute force."""
    found = []
    for start in range(0, len(query_QE), 50):
        score_QV = query_QE[start : start + 50] @ vector_VE.T
        best_QK = np.argpartition(-score_QV, count - 1, axis=1)[:, :count]
        order_QK = np.argsort(-np.take_along_axis(score_QV, best_QK, axis=1), axis=1)
        found.append(np.take_along_axis(best_QK, order_QK, axis=1))
    return np.concatenate(found)


def recall(found: Sequence[Int64s] | Int64s, expected_QK: Int64s) -> float:
    """Mean share of the expected items that were found."""
    shares = [np.isin(expected_K, row).mean() for row, expected_K in zip(found, expected_QK, strict=True)]
    return float(np.mean(shares))


def _time(search: Search, count: int = TIMED_QUERIES) -> Latency:
    for number in range(5):
        search(number)
    spent = np.empty(count)
    for number in range(count):
        began = time.perf_counter()
        search(number)
        spent[number] = time.perf_counter() - began
    return Latency(median_ms=float(np.median(spent)) * 1e3, p99_ms=float(np.percentile(spent, 99)) * 1e3)
