"""Recall, latency, build time and size of every kind of item index, against exact search by matrix products.

On a GPU latencies hold the transfers too: queries come from host memory and answers go there.

Shapes: V items, Q queries, E width, K nearest, X left-out items.
"""

import timeit
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any, Literal

import faiss
import numpy as np
import torch
from faiss.contrib.evaluation import knn_intersection_measure

from benchmarks.sweep.sweep import Point, SweepReport
from benchmarks.synthetic_vectors import GENERATOR, LEARNED_NOISE, Floats, draw_clustered
from ensemble.arrays import Int64s
from ensemble.index.cuda.fetching_search import FetchingSearch, keep_first
from ensemble.index.cuda.item_search import CAGRA_FROM, CAGRA_SEARCH, has_cagra, move_to_gpu
from ensemble.index.item_search import ItemSearch, NearestItems
from experiments.report import Machine
from export import item_index
from loadtest.render import Line, Panel, draw
from unipinrec.bundle import INDEX_KINDS, INDEX_TUNED_FOR, IndexKind

WIDTH = 128
QUERIES, TIMED_QUERIES, TIMED_BATCHES = 1_000, 500, 30
WARM_UP = 5
BATCH = 16
SEED = 7
FACTORS = (0.25, 0.5, 2.0, 4.0)
"""Other settings, as multiples of the search parameter that an index stores."""
BUDGET, LEFT_OUT = 128, 500
"""In the hardest case of a request, the `LEFT_OUT` nearest items are left out of a search for the `BUDGET`
nearest others."""
NOTHING: Int64s = np.empty(0, np.int64)

Device = Literal["cpu", "cuda"]

ON_GPU: dict[IndexKind, str] = {"flat": "flat", "hnsw": "cagra", "ivf_hnsw": "ivf"}
"""What a bundle's index becomes on a GPU; `sq8` becomes `flat` too."""

MARKS = {"flat": "s", "hnsw": "o", "ivf_hnsw": "^", "sq8": "D", "ivf": "v", "cagra": "P"}
RECALL, MS = f"recall@{INDEX_TUNED_FOR}", "one query, ms"
OTHERS = ", other settings"

BUILT_BY = ("HNSW_NEIGHBOURS", "HNSW_CONSTRUCTION", "HNSW_SEARCH", "IVF_PROBES", "IVF_SAMPLE", "EXACT_UP_TO")
SETTINGS = {
    "generator": GENERATOR,
    "width": WIDTH,
    "queries": QUERIES,
    "timed_queries": TIMED_QUERIES,
    "seed": SEED,
    "faiss": f"{faiss.__version__} ({faiss.get_compile_options().strip()})",
    "CAGRA_SEARCH": CAGRA_SEARCH,
} | {name: getattr(item_index, name) for name in BUILT_BY}


def measure(
    sizes: Sequence[int], tell: Callable[[str], None], noise: float = LEARNED_NOISE, device: Device = "cpu"
) -> SweepReport:
    """Measure every kind at every size as it is served, with `cuda` on the GPU too, and with other settings.

    `noise` is that of `draw_clustered`; `tell` gets one line for every index.
    """
    settings, on_gpu = SETTINGS | {"noise": noise}, {}
    if device == "cuda":
        # FAISS does not tell its name, and PyTorch only where it is built for CUDA.
        known = torch.cuda.is_available()
        settings["gpu"] = torch.cuda.get_device_name(0) if known else "a GPU that PyTorch cannot name"
        on_gpu = {kind: moved for kind, moved in ON_GPU.items() if moved != "cagra" or has_cagra()}
        if on_gpu != ON_GPU:
            tell("cagra is left out: this FAISS is built without cuVS (faiss-gpu-cuvs)")
    sweeps: dict[str, tuple[Point, ...]] = {}
    for items in sizes:
        name = f"{items:,} items"
        tell(f"{name} x {WIDTH}: drawing vectors, searching exactly")
        vector_VE, query_QE = draw_clustered(items, QUERIES, WIDTH, SEED, noise)
        nearest_QK = search_exactly(vector_VE, query_QE, min(items, BUDGET + LEFT_OUT))
        for kind in INDEX_KINDS:
            for bench in _indexes(kind, on_gpu.get(kind), vector_VE, query_QE, nearest_QK):
                point = bench.served()
                sweeps[name] = (*sweeps.get(name, ()), point)
                sweeps[name + OTHERS] = (*sweeps.get(name + OTHERS, ()), *bench.others())
                told = ", ".join(f"{what} {found:.4g}" for what, found in point.measured.items())
                tell(f"{name}, {point.value}: {told}")
    machine = Machine.here().model_copy(update={"threads": 1})
    return SweepReport(subject="ann", machine=machine, settings=settings, sweeps=sweeps)


@dataclass(frozen=True, slots=True)
class IndexBench:
    """One index, on the CPU or a GPU."""

    name: str
    index: Any
    search: NearestItems
    vector_VE: Floats
    query_QE: Floats
    nearest_QK: Int64s
    cost: dict[str, float]
    """What it took to build."""

    def served(self) -> Point:
        """Return everything with the parameter that the index stores."""
        gathered = self._latency(lambda query_1E: self.vector_VE[self._find(query_1E)])
        measured = self.cost | self._point() | {"search and gather, ms": gathered[0]}
        measured |= self._leave_out(f"{LEFT_OUT} left out", self._without)
        # A GPU cannot skip items, nor read vectors out of its index.
        if isinstance(self.index, faiss.Index):
            measured |= self._leave_out(f"{LEFT_OUT} more fetched", self._fetched)
            reconstruct = self.index.search_and_reconstruct
            found = self._latency(lambda query_1E: reconstruct(query_1E, INDEX_TUNED_FOR))
            measured["search and reconstruct, ms"] = found[0]
        return Point(value=self.name, measured=measured)

    def others(self) -> Iterator[Point]:
        """Yield recall and latency with other parameters; none for an index that compares every item."""
        holder, attribute = self.index, "nprobe"
        if isinstance(self.index, faiss.IndexHNSW):
            holder, attribute = self.index.hnsw, "efSearch"
        elif not isinstance(self.index, faiss.IndexIVF):
            attribute = "value"
        stored = getattr(holder, attribute, 0)
        for value in [round(stored * factor) for factor in FACTORS if stored]:
            setattr(holder, attribute, value)
            yield Point(value=f"{self.name} {value}", measured=self._point())
            setattr(holder, attribute, stored)

    def _find(self, query_QE: Floats) -> Int64s:
        return self.search.nearest(query_QE, INDEX_TUNED_FOR, NOTHING)

    def _point(self) -> dict[str, float]:
        expected_QK = self.nearest_QK[:, :INDEX_TUNED_FOR]
        median_ms, p99_ms = self._latency(self._find)
        return {
            RECALL: knn_intersection_measure(self._find(self.query_QE), expected_QK),
            MS: median_ms,
            "one query at p99, ms": p99_ms,
            f"batch of {BATCH}, ms": self._latency(self._find, TIMED_BATCHES, BATCH)[0],
        }

    def _leave_out(self, name: str, search: Callable[[int], Int64s]) -> dict[str, float]:
        found_QK = np.concatenate([search(query) for query in range(TIMED_QUERIES)])
        recall = knn_intersection_measure(found_QK, self.nearest_QK[:TIMED_QUERIES, LEFT_OUT:])
        return {f"{name}: recall": recall, f"{name}, ms": latency(search, range(TIMED_QUERIES))[0]}

    def _without(self, query: int) -> Int64s:
        left_out, query_1E = self.nearest_QK[query, :LEFT_OUT], self.query_QE[query : query + 1]
        return self.search.nearest(query_1E, self.nearest_QK.shape[1] - LEFT_OUT, left_out)

    def _fetched(self, query: int) -> Int64s:
        most, query_1E = self.nearest_QK.shape[1], self.query_QE[query : query + 1]
        found_1X = self.search.nearest(query_1E, most, NOTHING)
        return keep_first(found_1X, self.nearest_QK[query, :LEFT_OUT], most - LEFT_OUT)

    def _latency(
        self, search: Callable[[Floats], object], count: int = TIMED_QUERIES, batch: int = 1
    ) -> tuple[float, float]:
        starts = [number * batch % (len(self.query_QE) - batch) for number in range(count)]
        return latency(lambda start: search(self.query_QE[start : start + batch]), starts)


def _indexes(
    kind: IndexKind, on_gpu: str | None, vector_VE: Floats, query_QE: Floats, nearest_QK: Int64s
) -> Iterator[IndexBench]:
    """Yield one kind on the CPU, and what it becomes on the GPU if asked for."""
    data, built = (vector_VE, query_QE, nearest_QK), list[Any]()
    seconds = timeit.timeit(lambda: built.append(item_index.build_index(kind, vector_VE)), number=1)
    index = built.pop()
    faiss.omp_set_num_threads(1)
    search = ItemSearch(index)
    cost = {"build, s": seconds, "size, MB": faiss.serialize_index(index).nbytes / 1e6}
    yield IndexBench(kind, index, search, *data, cost)
    # A CAGRA graph needs more items than its nodes have neighbours.
    if on_gpu and (on_gpu != "cagra" or len(vector_VE) >= CAGRA_FROM):
        seconds = timeit.timeit(lambda: built.append(move_to_gpu(index, vector_VE)), number=1)
        moved = built.pop()
        search_there = FetchingSearch(moved.fetch, moved.most, search)
        yield IndexBench(f"{on_gpu} on GPU", moved, search_there, *data, {"build, s": seconds})


def search_exactly(vector_VE: Floats, query_QE: Floats, count: int) -> Int64s:
    """Return the rows of largest inner product, best first, by brute force."""
    vectors = torch.from_numpy(vector_VE)
    chunks = torch.from_numpy(query_QE).split(50)
    found: Int64s = torch.cat([torch.topk(chunk @ vectors.T, count).indices for chunk in chunks]).numpy()
    return found


def latency(search: Callable[[int], object], numbers: Sequence[int]) -> tuple[float, float]:
    """Return median and p99 in milliseconds of a search for each of the numbers."""
    turn = cycle(numbers)
    spent = timeit.repeat(lambda: search(next(turn)), number=1, repeat=WARM_UP + len(numbers))[WARM_UP:]
    return 1e3 * float(np.median(spent)), 1e3 * float(np.percentile(spent, 99))


def plot(report: SweepReport, path: Path) -> None:
    """Draw recall against latency, a panel for each size; what is served is filled, other settings hollow."""
    panels: list[Panel] = []
    for name in [name for name in report.sweeps if not name.endswith(OTHERS)]:
        lines: dict[str, Line] = {}
        for colour, served in enumerate(report.sweeps[name]):
            kind = str(served.value)
            others = [p for p in report.sweeps[name + OTHERS] if str(p.value).startswith(f"{kind} ")]
            points = [point.measured for point in [*others[:2], served, *others[2:]]]
            style = f"C{colour}{MARKS[kind.partition(' ')[0]]}"
            ms, recalls = [point[MS] for point in points], [point[RECALL] for point in points]
            lines[kind + OTHERS] = Line(x=ms, y=recalls, style=f"{style}-", hollow=True)
            lines[kind] = Line(x=[served.measured[MS]], y=[served.measured[RECALL]], style=style)
        labels = {"title": name, "xlabel": "ms for one query, one thread", "ylabel": RECALL, "xscale": "log"}
        panels.append(Panel(lines=lines, axes=labels, legend=not panels))
    title = f"synthetic vectors x {WIDTH}, noise {report.settings['noise']}, {report.machine.processor}"
    draw(path, title, [panels], (3.4 * len(panels), 3.4))
