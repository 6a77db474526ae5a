"""Candidates over cached histories of exact lengths.

Shapes: B requests, K candidates, N events, A actions.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from ensemble.arrays import Floats, Int64s
from ensemble.executors.engine import ScoringRow
from ensemble.kv.shared_memory import SharedMemoryStorage
from ensemble.stores.served_items import ServedItems

CANDIDATE_STEP = 16
"""Candidate counts are padded to multiples of this: few shapes, the same kernels for the same candidate."""


class CandidateScorer:
    """The ranking graph with the item vectors that it reads, those of `items.safetensors`: an index may hold
    them coarser."""

    def __init__(self, graph: Callable[..., Tensor], items: ServedItems) -> None:
        """`graph` is called as `RankingHeadGraph`."""
        self._graph = graph
        self._items = items

    def __call__(self, rows: Sequence[ScoringRow[SharedMemoryStorage]]) -> list[Floats]:
        """Return action probabilities [K, A] of every row, computed together."""
        row_BK = stacked([row.item_row_K for row in rows], CANDIDATE_STEP)
        histories = [row.history for row in rows]
        probability_BKA = self._graph(
            torch.from_numpy(self._items.vectors_of(row_BK)),
            torch.from_numpy(self._items.in_bundle_rows(row_BK)),
            torch.tensor([row.request_time for row in rows]),
            torch.tensor([row.surface for row in rows]),
            torch.from_numpy(np.stack([row.hidden_C for row in rows])),
            [torch.from_numpy(self._items.vectors_of(history.item_row_N)) for history in histories],
            [torch.from_numpy(history.actions_N) for history in histories],
            [torch.from_numpy(history.timestamp_N) for history in histories],
            [row.storage.read(row.place.slot, row.place.length) for row in rows],
        ).numpy()
        return [
            probability_KA[: len(row.item_row_K)]
            for row, probability_KA in zip(rows, probability_BKA, strict=True)
        ]


def stacked(rows: Sequence[Int64s], step: int) -> Int64s:
    """Return item rows [K] of different K as [B, K'], K' the next multiple of `step`."""
    width = max(step, -(-max(len(row) for row in rows) // step) * step)
    # Padding is any item: nothing reads what comes of it.
    row_BK = np.zeros((len(rows), width), np.int64)
    for index, row in enumerate(rows):
        row_BK[index, : len(row)] = row
    return row_BK
