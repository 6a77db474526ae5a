"""An item index that has been held against exact search before it may enter a bundle.

Shapes: V items, E item width, Q queries, K nearest, X sampled items.
"""

from collections.abc import Callable
from typing import Any

import faiss
import numpy as np

from export.item_index import AUTO, Floats, build_index, choose_kind, first_of_each, one_thread
from unipinrec.bundle import INDEX_TUNED_FOR, IndexKind

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


class IndexRecallError(ValueError):
    """An approximate index finds too few of the nearest items of this catalogue."""


def build_checked(choice: str, vector_VE: Floats, report: Callable[[str], None]) -> tuple[IndexKind, Any]:
    """Return the index of `choice` over `vector_VE`, and its kind, once it finds what exact search does.

    Where it does not, `auto` turns to `flat` and reports why in one line.

    Raises:
        UnknownIndexError: there is no such index.
        IndexRecallError: its recall is below `LEAST_RECALL`.
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
