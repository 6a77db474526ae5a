"""The item index on a GPU, by FAISS.

Shapes: V items, Q query embeddings, E item width, L lists, F items fetched, G items in a graph.
"""

from dataclasses import dataclass
from math import ceil
from typing import Any

import faiss
import numpy as np

from ensemble.arrays import PADDING, Floats, Int64s
from ensemble.gpu_presence import NoGpuError
from ensemble.index.cuda.fetching_search import FetchingSearch
from ensemble.index.item_search import ItemSearch
from ensemble.index.twins import Twins
from ensemble.settings import ENV_PREFIX
from unipinrec.bundle import INDEX_TUNED_FOR

MOST_FETCHED = 2048
"""Items, and lists, that FAISS's own GPU kernels select at most."""

MOST_BY_CAGRA = 1024
"""Items that CAGRA's faster kernels select at most: more turn to a slower one of cuVS."""

CAGRA_SEARCH = 512
"""itopk_size of CAGRA: nodes kept in sight while `INDEX_TUNED_FOR` items are sought."""

CAGRA_MULTIPLE = 32
"""What CAGRA's itopk_size is a multiple of."""

CAGRA_FROM = 1024
"""Fewest items for a CAGRA graph, whose nodes have 64 neighbours; exact search of fewer takes no longer."""

WORKSPACE_BYTES = 256 << 20
"""GPU memory for intermediate results, of which FAISS would take 1.5 GB. What exceeds it is allocated for
each search, which is slow; distances of 16 queries to a million items take 128 MB."""

NOTHING: Int64s = np.empty(0, np.int64)

DEVICE = 0
"""The first GPU that the process sees; CUDA_VISIBLE_DEVICES chooses another."""


@dataclass(slots=True, kw_only=True)
class GpuIndex:
    """A FAISS index in GPU memory, for one thread at a time. Queries and answers are in host memory."""

    index: Any
    most: int
    """Items that one search may fetch."""
    parameter: str = ""
    """`nprobe`, `itopk_size`, or empty for an index that compares every item."""
    value: int = 0
    """Of the parameter, for `INDEX_TUNED_FOR` items; a search for more raises it in proportion."""
    twins: Twins | None = None
    """Of an index that holds the first items of their groups alone."""

    def fetch(self, query_QE: Floats, count: int) -> Int64s:
        """Return item rows [Q, F] of largest inner product, best first, -1 where fewer are found."""
        item_row_QF: Int64s = self.index.search(query_QE, count, params=self._parameters(count))[1]
        if self.twins is None:
            return item_row_QF
        first_QF = np.where(item_row_QF >= 0, self.twins.firsts[item_row_QF], PADDING)
        return self.twins.spread(first_QF, count, NOTHING)

    def _parameters(self, count: int) -> Any:
        value = ceil(self.value * max(1.0, count / INDEX_TUNED_FOR))
        if self.parameter == "nprobe":
            return faiss.SearchParametersIVF(nprobe=min(self.index.nlist, MOST_FETCHED, value))
        if self.parameter == "itopk_size":
            fewest = ceil(max(count, value) / CAGRA_MULTIPLE) * CAGRA_MULTIPLE
            return faiss.SearchParametersCagra(itopk_size=fewest)
        return None


def require_gpu(name: str) -> None:
    """Refuse the value `cuda` of the setting or option `name` where FAISS has no GPU. Raises `NoGpuError` if
    FAISS is built for CPU only, or finds no GPU."""
    # FAISS built for CPU has get_num_gpus too, and says 0.
    if not hasattr(faiss, "StandardGpuResources"):
        raise NoGpuError(
            f"{name} is cuda; FAISS {faiss.__version__} here is built for CPU. Allowed: cpu, or cuda with "
            "faiss-gpu or faiss-gpu-cuvs installed in place of faiss-cpu"
        )
    if faiss.get_num_gpus() == 0:
        raise NoGpuError(f"{name} is cuda; FAISS finds no GPU. Allowed: cpu, or cuda on a host with one")


def has_cagra() -> bool:
    """Return whether the installed FAISS is built with NVIDIA's cuVS, which brings CAGRA."""
    return hasattr(faiss, "GpuIndexCagra")


def search_on_gpu(search: ItemSearch, vector_VE: Floats) -> FetchingSearch:
    """Return the same search on the GPU; what reaches further stays with `search`, in host memory.

    `vector_VE` are the item vectors that `search` was built from. Raises `NoGpuError` if there is no GPU, or
    `hnsw` meets a FAISS without cuVS.
    """
    require_gpu(f"{ENV_PREFIX}ANN_DEVICE")
    on_gpu = move_to_gpu(search.index, vector_VE)
    return FetchingSearch(on_gpu.fetch, on_gpu.most, search)


def move_to_gpu(index: Any, vector_VE: Floats) -> GpuIndex:
    """Return the GPU's counterpart of a bundle's index over `vector_VE`; for `hnsw`, it is built anew.

    - `flat` and `sq8` become exact search over the item vectors: coarser ones would save memory alone.
    - `ivf_hnsw` keeps its lists; their centroids are all compared.
    - `hnsw` becomes CAGRA (Ootomo et al., arXiv 2308.15136) over as many vectors as differ, since FAISS moves
      no HNSW graph; up to `CAGRA_FROM` of them, exact search. Raises `NoGpuError` without cuVS in FAISS.
    """
    if isinstance(index, faiss.IndexIVFFlat):
        return GpuIndex(
            index=_clone_to_gpu(with_flat_centroids(index)),
            most=MOST_FETCHED,
            parameter="nprobe",
            value=index.nprobe,
        )
    twins = Twins.of(index)
    linked_GE = vector_VE if twins is None else vector_VE[twins.firsts]
    if isinstance(index, faiss.IndexHNSW) and len(linked_GE) >= CAGRA_FROM:
        return GpuIndex(
            index=_build_cagra(linked_GE),
            most=MOST_BY_CAGRA,
            parameter="itopk_size",
            value=CAGRA_SEARCH,
            twins=twins,
        )
    return GpuIndex(index=_clone_to_gpu(_flat(vector_VE)), most=MOST_FETCHED)


def with_flat_centroids(index: Any) -> Any:
    """Return an IVF index in host memory that shares the lists of `index` and compares all centroids. `index`
    must outlive it."""
    flat = faiss.IndexIVFFlat(
        _flat(index.quantizer.reconstruct_n(0, index.nlist)), index.d, index.nlist, faiss.METRIC_INNER_PRODUCT
    )
    flat.replace_invlists(index.invlists, False)
    flat.ntotal = index.ntotal
    flat.nprobe = index.nprobe
    return flat


def _flat(vector_VE: Floats) -> Any:
    index = faiss.IndexFlatIP(vector_VE.shape[1])
    index.add(vector_VE)
    return index


def _clone_to_gpu(index: Any) -> Any:
    options = faiss.GpuClonerOptions()
    # cuVS has other limits; without it every build of FAISS searches alike.
    options.use_cuvs = False
    return faiss.index_cpu_to_gpu(_resources(), DEVICE, index, options)


def _build_cagra(vector_VE: Floats) -> Any:
    if not has_cagra():
        raise NoGpuError(
            f"index is hnsw, which on a GPU needs CAGRA; FAISS {faiss.__version__} here has no cuVS. "
            "Allowed: flat, ivf_hnsw, sq8, or hnsw with faiss-gpu-cuvs installed"
        )
    config = faiss.GpuIndexCagraConfig()
    config.device = DEVICE
    index = faiss.GpuIndexCagra(_resources(), vector_VE.shape[1], faiss.METRIC_INNER_PRODUCT, config)
    index.train(np.ascontiguousarray(vector_VE))
    return index


def _resources() -> Any:
    resources = faiss.StandardGpuResources()
    resources.setTempMemory(WORKSPACE_BYTES)
    return resources
