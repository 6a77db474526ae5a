"""Recall, latency, build time and size of every kind of item index, against exact search in NumPy.

On a GPU latencies hold the transfers too: queries come from host memory and answers go there.

Shapes: V items, Q queries, E width, K nearest, X left-out items.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import faiss
import numpy as np
import torch

from benchmarks.synthetic_vectors import GENERATOR, LEARNED_NOISE, Floats, draw_clustered
from ensemble.arrays import Int64s
from ensemble.index.cuda.fetching_search import FetchingSearch, keep_first
from ensemble.index.cuda.item_search import CAGRA_FROM, CAGRA_SEARCH, GpuIndex, has_cagra, move_to_gpu
from ensemble.index.item_search import ItemSearch, NearestItems
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

Device = Literal["cpu", "cuda"]
GpuKind = Literal["flat", "ivf", "cagra"]

GPU_KINDS: dict[IndexKind, GpuKind] = {"flat": "flat", "hnsw": "cagra", "ivf_hnsw": "ivf"}
"""What a bundle's index becomes on a GPU; `sq8` becomes `flat` too."""

Search = Callable[[int], object]
"""Does the search for one query, given its number."""


@dataclass(frozen=True, slots=True)
class Tunable:
    """Where an index keeps how much it searches."""

    holder: Any
    attribute: str
    name: str


class Latency(Config):
    """Wall time on one thread."""

    median_ms: float
    p99_ms: float


class Point(Config):
    """One setting of the search parameter, for `INDEX_TUNED_FOR` items."""

    parameter: str
    """`efSearch`, `nprobe`, `itopk_size`, or empty for an index that compares every item."""
    value: int
    stored: bool
    """Whether this is what the index stores, and so what is served."""
    recall_at_100: float
    single: Latency
    batch_of_16_ms: float
    """Median of the whole batch in one call."""


class LeftOut(Config):
    """The `LEFT_OUT` nearest items left out of a search for the `BUDGET` nearest others: the hardest case."""

    recall_skipped: float | None
    """Left-out items skipped inside the search, as served on the CPU; none on a GPU, which cannot."""
    skipped: Latency | None
    recall_fetched: float
    """As many more fetched, and the left-out ones dropped, as served on a GPU."""
    fetched: Latency


class Measured(Config):
    """One kind of index over one catalogue."""

    kind: IndexKind | GpuKind
    device: Device = "cpu"
    items: int
    build_seconds: float
    """On a GPU what a node takes at its start, from the bundle's index in memory."""
    index_bytes: int | None
    """Of the file; none on a GPU."""
    points: tuple[Point, ...]
    left_out: LeftOut
    gathered: Latency
    """Search, and the vectors found out of the array of all: as served."""
    reconstructed: Latency | None
    """Search, and the vectors found out of the index; none on a GPU."""

    @property
    def name(self) -> str:
        """The kind, and where it is when that is a GPU."""
        return self.kind if self.device == "cpu" else f"{self.kind} on GPU"

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
    gpu: str | None = None
    faiss: str
    build_threads: int = 1
    search_threads: int = 1
    parameters: dict[str, int]
    measured: tuple[Measured, ...]

    @property
    def where(self) -> str:
        """The processor, and the GPU if one was used."""
        return self.machine.processor if self.gpu is None else f"{self.machine.processor}, {self.gpu}"

    def write(self, path: Path) -> None:
        """Write the report as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.model_dump_json(indent=1) + "\n")


def measure(
    sizes: Sequence[int],
    report: Callable[[str], None],
    noise: float = LEARNED_NOISE,
    device: Device = "cpu",
) -> AnnReport:
    """Every kind at every size, with `cuda` on the GPU too; `report` gets one line for every index."""
    measured = []
    kinds = _gpu_kinds(report) if device == "cuda" else {}
    for items in sizes:
        report(f"{items:,} items x {WIDTH}: drawing vectors, searching exactly in NumPy")
        vector_VE, query_QE = draw_clustered(items, QUERIES, WIDTH, SEED, noise)
        nearest_QK = search_exactly(vector_VE, query_QE, min(items, BUDGET + LEFT_OUT))
        for kind in INDEX_KINDS:
            for found in _measure(kind, kinds.get(kind), vector_VE, query_QE, nearest_QK):
                measured.append(found)
                report(
                    f"{items:,} items, {found.name}: built in {found.build_seconds:.1f} s, "
                    f"recall@100 {found.served.recall_at_100:.4f}, {found.served.single.median_ms:.2f} ms"
                )
    return AnnReport(
        noise=noise,
        machine=Machine.here().model_copy(update={"threads": 1}),
        gpu=_gpu_name() if kinds else None,
        faiss=f"{faiss.__version__} ({faiss.get_compile_options().strip()})",
        parameters={
            "M": HNSW_NEIGHBOURS,
            "efConstruction": HNSW_CONSTRUCTION,
            "efSearch": HNSW_SEARCH,
            "nprobe": IVF_PROBES,
            "k_means_items_per_list": IVF_SAMPLE,
            "exact_up_to": EXACT_UP_TO,
            "itopk_size": CAGRA_SEARCH,
        },
        measured=tuple(measured),
    )


def _gpu_kinds(report: Callable[[str], None]) -> dict[IndexKind, GpuKind]:
    if has_cagra():
        return GPU_KINDS
    report("cagra is left out: this FAISS is built without cuVS (faiss-gpu-cuvs)")
    return {kind: on_gpu for kind, on_gpu in GPU_KINDS.items() if on_gpu != "cagra"}


def _gpu_name() -> str:
    """FAISS does not tell it, and PyTorch only where it is built for CUDA."""
    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else "a GPU that PyTorch cannot name"


def _measure(
    kind: IndexKind, gpu_kind: GpuKind | None, vector_VE: Floats, query_QE: Floats, nearest_QK: Int64s
) -> Iterator[Measured]:
    """One kind on the CPU, and what it becomes on the GPU if asked for."""
    began = time.perf_counter()
    index = build_index(kind, vector_VE)
    build_seconds = time.perf_counter() - began
    faiss.omp_set_num_threads(1)
    yield _on_cpu(kind, index, build_seconds, vector_VE, query_QE, nearest_QK)
    # A CAGRA graph needs more items than its nodes have neighbours.
    if gpu_kind is not None and (gpu_kind != "cagra" or len(vector_VE) >= CAGRA_FROM):
        yield _on_gpu(gpu_kind, index, vector_VE, query_QE, nearest_QK)


def _on_cpu(
    kind: IndexKind,
    index: Any,
    build_seconds: float,
    vector_VE: Floats,
    query_QE: Floats,
    nearest_QK: Int64s,
) -> Measured:
    search, wanted = ItemSearch(index), INDEX_TUNED_FOR

    def reconstruct(query: int) -> object:
        return index.search_and_reconstruct(query_QE[query : query + 1], wanted)

    return Measured(
        kind=kind,
        items=len(vector_VE),
        build_seconds=build_seconds,
        index_bytes=faiss.serialize_index(index).nbytes,
        points=tuple(_sweep(search, _tunable(index), query_QE, nearest_QK[:, :wanted])),
        left_out=_leave_out(search, query_QE, nearest_QK, skips=True),
        gathered=_gather(search, vector_VE, query_QE),
        reconstructed=_time(reconstruct),
    )


def _on_gpu(kind: GpuKind, index: Any, vector_VE: Floats, query_QE: Floats, nearest_QK: Int64s) -> Measured:
    began = time.perf_counter()
    on_gpu = move_to_gpu(index, vector_VE)
    build_seconds = time.perf_counter() - began
    search = FetchingSearch(on_gpu.fetch, on_gpu.most, ItemSearch(index))
    return Measured(
        kind=kind,
        device="cuda",
        items=len(vector_VE),
        build_seconds=build_seconds,
        index_bytes=None,
        points=tuple(_sweep(search, _tunable(on_gpu), query_QE, nearest_QK[:, :INDEX_TUNED_FOR])),
        left_out=_leave_out(search, query_QE, nearest_QK, skips=False),
        gathered=_gather(search, vector_VE, query_QE),
        reconstructed=None,
    )


def _tunable(index: Any) -> Tunable | None:
    """None for an index that compares every item."""
    if isinstance(index, GpuIndex):
        return Tunable(index, "value", index.parameter) if index.parameter else None
    if isinstance(index, faiss.IndexHNSW):
        return Tunable(index.hnsw, "efSearch", "efSearch")
    return Tunable(index, "nprobe", "nprobe") if isinstance(index, faiss.IndexIVF) else None


def _sweep(
    search: NearestItems, tunable: Tunable | None, query_QE: Floats, nearest_QK: Int64s
) -> list[Point]:
    if tunable is None:
        return [_point(search, query_QE, nearest_QK, "", 0, stored=True)]
    stored, points = getattr(tunable.holder, tunable.attribute), []
    for factor in SWEEP:
        value = round(stored * factor)
        setattr(tunable.holder, tunable.attribute, value)
        points.append(_point(search, query_QE, nearest_QK, tunable.name, value, stored=value == stored))
    setattr(tunable.holder, tunable.attribute, stored)
    return points


def _point(
    search: NearestItems, query_QE: Floats, nearest_QK: Int64s, name: str, value: int, *, stored: bool
) -> Point:
    wanted = nearest_QK.shape[1]

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


def _gather(search: NearestItems, vector_VE: Floats, query_QE: Floats) -> Latency:
    def gather(query: int) -> object:
        found_1K = search.nearest(query_QE[query : query + 1], INDEX_TUNED_FOR, NOTHING)
        return vector_VE[found_1K]

    return _time(gather)


def _leave_out(search: NearestItems, query_QE: Floats, nearest_QK: Int64s, *, skips: bool) -> LeftOut:
    left_out_QX, expected_QK = nearest_QK[:TIMED_QUERIES, :LEFT_OUT], nearest_QK[:TIMED_QUERIES, LEFT_OUT:]
    wanted = expected_QK.shape[1]

    def as_served(query: int) -> Int64s:
        found_1K = search.nearest(query_QE[query : query + 1], wanted, left_out_QX[query])
        return found_1K.ravel()

    def fetch(query: int) -> Int64s:
        found_1X = search.nearest(query_QE[query : query + 1], LEFT_OUT + wanted, NOTHING)
        return keep_first(found_1X, left_out_QX[query], wanted).ravel()

    fetching = fetch if skips else as_served
    return LeftOut(
        recall_skipped=_recall_of(as_served, expected_QK) if skips else None,
        skipped=_time(as_served) if skips else None,
        recall_fetched=_recall_of(fetching, expected_QK),
        fetched=_time(fetching),
    )


def _recall_of(search: Callable[[int], Int64s], expected_QK: Int64s) -> float:
    return recall([search(query) for query in range(len(expected_QK))], expected_QK)


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
