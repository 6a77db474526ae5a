"""Candidates over cached histories of exact lengths.

Shapes: B requests, K candidates, V items, E item width, A actions.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from ensemble.arrays import Floats, Int64s
from ensemble.executors.engine import ScoringRow
from ensemble.kv.shared_memory import SharedMemoryStorage

CANDIDATE_STEP = 16
"""Candidate counts are padded to multiples of this: few shapes, the same kernels for the same candidate."""


class CandidateScorer:
    """The ranking graph with the item vectors that it reads, those of `items.safetensors`: an index may hold
    them coarser."""

    def __init__(self, graph: Callable[..., Tensor], vectors: Callable[[Int64s], Floats]) -> None:
        """`graph` is called as `RankingHeadGraph`; `vectors` turns rows [B, K] into vectors [B, K, E]."""
        self._graph = graph
        self._vectors = vectors

    def __call__(self, rows: Sequence[ScoringRow[SharedMemoryStorage]]) -> list[Floats]:
        """Return action probabilities [K, A] of every row, computed together."""
        probability_BKA = self._graph(
            gather_vectors(self._vectors, [row.item_row_K for row in rows], CANDIDATE_STEP),
            torch.tensor([row.request_time for row in rows]),
            torch.tensor([row.surface for row in rows]),
            [row.storage.read(row.place.slot, row.place.length) for row in rows],
        ).numpy()
        return [
            probability_KA[: len(row.item_row_K)]
            for row, probability_KA in zip(rows, probability_BKA, strict=True)
        ]


def gather_vectors(vectors: Callable[[Int64s], Floats], rows: Sequence[Int64s], step: int) -> Tensor:
    """Return the vectors of item rows [K] of different K as [B, K', E], K' the next multiple of `step`."""
    width = max(step, -(-max(len(row) for row in rows) // step) * step)
    # Padding has the vector of any item: nothing reads what comes of it.
    row_BK = np.zeros((len(rows), width), np.int64)
    for index, row in enumerate(rows):
        row_BK[index, : len(row)] = row
    return torch.from_numpy(vectors(row_BK))
