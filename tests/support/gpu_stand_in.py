"""Stands in for what only a FAISS built for GPU has: CPU indexes with a GPU's interface and limits.

It shows that ours keeps to those limits and asks for the right index, not that a GPU answers.
"""

from typing import Any

import faiss
import numpy as np
import pytest

MOST_FETCHED = 2048
MOST_BY_CAGRA = 1024


class Resources:
    def set_temp_memory(self, size: int) -> None:
        assert 0 < size < 1536 << 20

    setTempMemory = set_temp_memory


class ClonerOptions:
    use_cuvs = True


class CagraConfig:
    device = -1


class CagraParameters:
    def __init__(self, itopk_size: int) -> None:
        self.itopk_size = itopk_size


class MovedIndex:
    """A flat or IVF index "on the GPU": no selector, a bounded number of items and of lists."""

    def __init__(self, index: Any) -> None:
        assert isinstance(index, faiss.IndexFlat | faiss.IndexIVFFlat)
        if isinstance(index, faiss.IndexIVFFlat):
            assert isinstance(faiss.downcast_index(index.quantizer), faiss.IndexFlat)
            self.nlist = index.nlist
        self.index = faiss.clone_index(index)
        self.asked: list[int] = []

    def search(self, query_QE: Any, count: int, params: Any) -> Any:
        assert 0 < count <= MOST_FETCHED
        if params is not None:
            assert params.sel is None
            assert 0 < params.nprobe <= min(self.nlist, MOST_FETCHED)
            self.asked.append(params.nprobe)
        return self.index.search(query_QE, count, params=params)


class Cagra:
    def __init__(self, resources: Resources, width: int, metric: int, config: CagraConfig) -> None:
        assert (metric, config.device) == (faiss.METRIC_INNER_PRODUCT, 0)
        assert isinstance(resources, Resources)
        self.index = faiss.IndexFlatIP(width)
        self.asked: list[int] = []

    def train(self, vector_VE: Any) -> None:
        self.index.add(vector_VE)

    def search(self, query_QE: Any, count: int, params: CagraParameters) -> Any:
        assert 0 < count <= min(MOST_BY_CAGRA, params.itopk_size)
        assert params.itopk_size % 32 == 0
        self.asked.append(params.itopk_size)
        return self.index.search(query_QE, count)


def move(resources: Resources, device: int, index: Any, options: ClonerOptions) -> MovedIndex:
    assert isinstance(resources, Resources)
    assert (device, options.use_cuvs) == (0, False)
    return MovedIndex(index)


def install(monkeypatch: pytest.MonkeyPatch, *, cuvs: bool = True) -> None:
    """Give FAISS the names that its build for GPU has, with one GPU."""
    names: dict[str, Any] = {
        "StandardGpuResources": Resources,
        "GpuClonerOptions": ClonerOptions,
        "index_cpu_to_gpu": move,
        "get_num_gpus": lambda: 1,
    }
    if cuvs:
        names |= {
            "GpuIndexCagra": Cagra,
            "GpuIndexCagraConfig": CagraConfig,
            "SearchParametersCagra": CagraParameters,
        }
    for name, value in names.items():
        monkeypatch.setattr(faiss, name, value, raising=False)


def brute_force(vector_VE: Any, query_QE: Any, count: int, left_out: Any) -> list[list[int]]:
    """Rows of largest inner product without those left out, -1 where there are no more."""
    wanted = min(count, len(vector_VE))
    found = []
    for score_V in query_QE.astype(np.float64) @ vector_VE.astype(np.float64).T:
        best = [int(row) for row in np.argsort(-score_V, kind="stable") if row not in set(left_out)]
        found.append((best + [-1] * wanted)[:wanted])
    return found
