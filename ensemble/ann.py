"""The `ann` node: query embeddings to candidates with their index vectors.

Shapes: B users of one request, Q query embeddings of one row, X item rows, K candidates, E item width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from ensemble.contract import (
    PADDING,
    Arrays,
    Floats,
    Int64s,
    check_bundle,
    check_sizes,
    stack,
    stamp_bundle,
)
from ensemble.loaded_bundle import LoadedBundle
from ensemble.settings import ServingSettings
from unipinrec import bundle


@dataclass(frozen=True, slots=True)
class Search:
    """One user's query embeddings, and what must not be found."""

    query_QE: Floats
    left_out_X: Int64s
    num_results: int


@dataclass(frozen=True, slots=True)
class Candidates:
    """Items found, best first, with the vectors that the index holds for them."""

    item_row_K: Int64s
    vector_KE: Floats
    query_K: NDArray[np.int32]
    """Which query embedding found the item first."""


class AnnNode:
    """Exact inner-product search over the embedder's outputs."""

    def __init__(self, loaded: LoadedBundle, settings: ServingSettings) -> None:
        faiss.omp_set_num_threads(settings.threads)
        self._bundle = loaded
        self._exclude_seen = settings.exclude_seen
        self._max_candidates = loaded.manifest.model.max_candidates
        self._over_fetch = loaded.manifest.defaults.over_fetch
        self._index = faiss.read_index(str(loaded.folder / bundle.INDEX))

    def parse(self, arrays: Arrays) -> list[Search]:
        """Rows of one request.

        Raises:
            InvalidInputError: more results than a request may ask for, or query embeddings of another width.
            BundleMismatchError: the request was assembled for another bundle.
        """
        check_bundle(arrays, self._bundle.id)
        check_sizes(arrays, self._bundle.manifest.model)
        left_out_BX = arrays["EXCLUDED_ITEMS"]
        if self._exclude_seen:
            left_out_BX = np.concatenate([left_out_BX, arrays["SEEN_ITEMS"]], axis=1)
        return [
            Search(query_QE, left_out_X[left_out_X != PADDING], int(num_results))
            for query_QE, left_out_X, num_results in zip(
                arrays["QUERY_EMBEDDINGS"], left_out_BX, arrays["NUM_RESULTS"][:, 0], strict=True
            )
        ]

    def run(self, rows: Sequence[Search]) -> list[Candidates]:
        """Row by row: rows differ in how many items they must fetch."""
        return [self._search(row) for row in rows]

    def pack(self, rows: Sequence[Candidates]) -> dict[str, NDArray[Any]]:
        """The node's output tensors for one request."""
        return {
            "CANDIDATE_ITEMS": stack([row.item_row_K for row in rows], PADDING),
            "CANDIDATE_VECTORS": stack([row.vector_KE for row in rows], 0),
            "CANDIDATE_QUERIES": stack([row.query_K for row in rows], 0),
            "BUNDLE_ID": stamp_bundle(self._bundle.id, len(rows)),
        }

    def count(self, rows: Sequence[Candidates]) -> dict[str, int]:
        """What the node's metrics grow by."""
        return {"candidates": sum(len(row.item_row_K) for row in rows)}

    def close(self) -> None:
        """Nothing to release."""

    def _search(self, row: Search) -> Candidates:
        """Over-fetch, drop what is left out or was found before, and give every query an equal budget."""
        wanted = min(self._over_fetch * row.num_results, self._max_candidates)
        budget = -(-wanted // len(row.query_QE))
        fetched = min(wanted + len(row.left_out_X), self._index.ntotal)
        _, item_row_QX, vector_QXE = self._index.search_and_reconstruct(row.query_QE, fetched)
        taken = row.left_out_X
        kept = []
        for item_row_X in item_row_QX:
            allowed_X = (item_row_X != PADDING) & ~np.isin(item_row_X, taken)
            kept.append(np.flatnonzero(allowed_X)[:budget])
            taken = np.concatenate([taken, item_row_X[kept[-1]]])
        query_K = np.repeat(np.arange(len(kept), dtype=np.int32), [len(place) for place in kept])[:wanted]
        place_K = np.concatenate(kept)[:wanted]
        return Candidates(
            item_row_QX[query_K, place_K].astype(np.int64), vector_QXE[query_K, place_K], query_K
        )
