"""The `ann` node: query embeddings to candidates.

Shapes: B users of one request, Q query embeddings of one row, X item rows, K candidates, E item width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Histogram

from ensemble.arrays import PADDING, Floats, Int64s
from ensemble.index.beside import Beside, Found
from ensemble.index.item_search import NOTHING, ItemSearch, NearestItems
from ensemble.loaded_bundle import LoadedBundle
from ensemble.nodes.contract import Arrays, stack
from ensemble.nodes.seal import CANDIDATE_SEAL, QUERY_SEAL, SEALED_LEFT_OUT, Seal
from ensemble.nodes.sealed_history import left_out_from_bytes
from ensemble.settings import ServingSettings
from ensemble.stores.served_items import ServedItems
from unipinrec import bundle

FOUND = (0, 1, 4, 16, 64, 256, 1024)
"""Bounds of the histogram of candidates."""


@dataclass(frozen=True, slots=True)
class Search:
    """One user's query embeddings, and what must not be found."""

    token: bytes
    query_QE: Floats
    budget_Q: Int64s
    origin_Q: NDArray[np.int32]
    left_out_X: Int64s
    catalogue_version: int


@dataclass(frozen=True, slots=True)
class Candidates:
    """Items found, best first."""

    token: bytes
    item_row_K: Int64s
    origin_K: NDArray[np.int32]
    """Which query embedding found the item first, as `QueryPlan.origins` numbers them."""


class AnnNode:
    """Inner-product search over the embedder's outputs."""

    def __init__(self, loaded: LoadedBundle, settings: ServingSettings) -> None:
        self._seal = Seal(settings, loaded.id)
        self._items = ServedItems.open(loaded, settings)
        self._index = open_index(loaded, settings)
        self.metrics = CollectorRegistry()
        self._candidates = Histogram(
            "unipinrec_candidates", "Candidates found for a user", buckets=FOUND, registry=self.metrics
        )

    def parse(self, arrays: Arrays) -> list[Search]:
        """Return a row for each user of one request. Raises what `Seal.open` does."""
        self._items.refresh()
        rows = []
        for user, opened in enumerate(self._seal.open(arrays, SEALED_LEFT_OUT, QUERY_SEAL)):
            budget_Q = arrays["QUERY_BUDGETS"][user]
            made = budget_Q > 0
            version, left_out_X = left_out_from_bytes(opened.content[SEALED_LEFT_OUT])
            rows.append(
                Search(
                    token=opened.token,
                    query_QE=arrays["QUERY_EMBEDDINGS"][user][made],
                    budget_Q=budget_Q[made],
                    origin_Q=arrays["QUERY_ORIGINS"][user][made],
                    left_out_X=left_out_X,
                    catalogue_version=version,
                )
            )
        return rows

    def run(self, rows: Sequence[Search]) -> list[Candidates]:
        """Return the candidates, found row by row: rows differ in how many items they must fetch."""
        self._items.refresh()
        found = [self._search(row) for row in rows]
        for candidates in found:
            self._candidates.observe(len(candidates.item_row_K))
        return found

    def pack(self, rows: Sequence[Candidates]) -> dict[str, NDArray[Any]]:
        """Return the node's output tensors for one request."""
        made = {
            "CANDIDATE_ITEMS": stack([row.item_row_K for row in rows], PADDING),
            "CANDIDATE_ORIGINS": stack([row.origin_K for row in rows], 0),
        }
        return {**made, **self._seal.close(CANDIDATE_SEAL, [row.token for row in rows], beside=made)}

    def close(self) -> None:
        """Release nothing: all that the node holds ends with the process."""

    def _search(self, row: Search) -> Candidates:
        """In generation order, each query embedding takes its budget of what nothing before it took. It looks
        for as many as all of them may take, since those before it may have found the same."""
        count = int(row.budget_Q.sum())
        item_row_QX = self._nearest(row.query_QE, count, row.left_out_X, row.catalogue_version)
        taken = np.empty(0, np.int64)
        kept = []
        for item_row_X, budget in zip(item_row_QX, row.budget_Q, strict=True):
            allowed_X = (item_row_X != PADDING) & ~np.isin(item_row_X, taken)
            kept.append(np.flatnonzero(allowed_X)[:budget])
            taken = np.concatenate([taken, item_row_X[kept[-1]]])
        query_K = np.repeat(np.arange(len(kept)), [len(place) for place in kept])
        return Candidates(row.token, taken, row.origin_Q[query_K])

    def nearest(self, query_QE: Floats, count: int) -> Int64s:
        """Return item rows [Q, K] of largest inner product among the items that there are, best first."""
        return self._nearest(query_QE, count, NOTHING, self._items.refresh().version)

    def _nearest(self, query_QE: Floats, count: int, left_out_X: Int64s, version: int) -> Int64s:
        """The items of the bundle's index and of those beside it, as they were at a version, but for those
        that have been removed since."""
        items = self._items
        in_bundle_X = left_out_X < items.in_bundle
        item_row_QF = self._index.nearest(query_QE, count, left_out_X[in_bundle_X], items.gone(version))
        vector_OE, living_O = items.beside(version)
        if not living_O.any():
            return item_row_QF
        beside = Beside(vector_OE, living_O, items.in_bundle)
        found = Found(item_row_QF, items.vectors_of(np.maximum(item_row_QF, 0)))
        return beside.merged(query_QE, count, found, left_out_X[~in_bundle_X] - items.in_bundle)


def open_index(loaded: LoadedBundle, settings: ServingSettings) -> NearestItems:
    """Return the search of a bundle's items where the settings want it. What one kind imports, the others do
    without."""
    if settings.index_url is not None:
        from ensemble.index.milvus.collection import Collection
        from ensemble.index.milvus.item_search import MilvusSearch

        token = settings.index_token.get_secret_value() if settings.index_token else None
        collection = Collection(settings.index_url, token, loaded.id, settings.index_timeout_ms / 1e3)
        return MilvusSearch(collection, loaded.manifest.model.num_items)
    on_cpu = ItemSearch.open(loaded.folder / bundle.INDEX, settings.threads)
    if settings.ann_device == "cuda":
        from ensemble.index.cuda.item_search import search_on_gpu

        return search_on_gpu(on_cpu, loaded.item_vectors())
    return on_cpu
