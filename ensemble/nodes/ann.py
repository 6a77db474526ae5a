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
from ensemble.index.item_search import ItemSearch, NearestItems
from ensemble.loaded_bundle import LoadedBundle
from ensemble.nodes.contract import Arrays, stack
from ensemble.nodes.seal import CANDIDATE_SEAL, QUERY_SEAL, SEALED_LEFT_OUT, Seal
from ensemble.nodes.sealed_history import rows_from_bytes
from ensemble.settings import ServingSettings
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
        on_cpu = ItemSearch.open(loaded.folder / bundle.INDEX, settings.threads)
        self._index: NearestItems = on_cpu
        if settings.ann_device == "cuda":
            # The CPU's nodes do without what this imports.
            from ensemble.index.cuda.item_search import search_on_gpu

            self._index = search_on_gpu(on_cpu, loaded.item_vectors())
        self.metrics = CollectorRegistry()
        self._candidates = Histogram(
            "unipinrec_candidates", "Candidates found for a user", buckets=FOUND, registry=self.metrics
        )

    def parse(self, arrays: Arrays) -> list[Search]:
        """Return a row for each user of one request. Raises what `Seal.open` does."""
        rows = []
        for user, opened in enumerate(self._seal.open(arrays, SEALED_LEFT_OUT, QUERY_SEAL)):
            budget_Q = arrays["QUERY_BUDGETS"][user]
            made = budget_Q > 0
            rows.append(
                Search(
                    token=opened.token,
                    query_QE=arrays["QUERY_EMBEDDINGS"][user][made],
                    budget_Q=budget_Q[made],
                    origin_Q=arrays["QUERY_ORIGINS"][user][made],
                    left_out_X=rows_from_bytes(opened.content[SEALED_LEFT_OUT]),
                )
            )
        return rows

    def run(self, rows: Sequence[Search]) -> list[Candidates]:
        """Return the candidates, found row by row: rows differ in how many items they must fetch."""
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
        item_row_QX = self._index.nearest(row.query_QE, int(row.budget_Q.sum()), row.left_out_X)
        taken = np.empty(0, np.int64)
        kept = []
        for item_row_X, budget in zip(item_row_QX, row.budget_Q, strict=True):
            allowed_X = (item_row_X != PADDING) & ~np.isin(item_row_X, taken)
            kept.append(np.flatnonzero(allowed_X)[:budget])
            taken = np.concatenate([taken, item_row_X[kept[-1]]])
        query_K = np.repeat(np.arange(len(kept)), [len(place) for place in kept])
        return Candidates(row.token, taken, row.origin_Q[query_K])
