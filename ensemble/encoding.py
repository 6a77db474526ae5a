"""Encodes several histories of different lengths in one padded forward; both model nodes use it.

Shapes: B requests, N events, T positions (BOS first), L layers, H heads, D head width, E item width,
C hidden width.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ensemble.contract import Floats, Int64s
from ensemble.loaded_bundle import LoadedBundle, Vocabulary
from unipinrec import bundle
from unipinrec.data.history import History

POSITION_STEP = 16
"""Padded positions, BOS included, are multiples of this. Few shapes, and no lone last row that CPU kernels
would round differently: on the machines measured, results are bit-equal whatever else is in the batch."""


class HistoryEncoder:
    """The encoder graph with the item vectors that it reads."""

    def __init__(self, loaded: LoadedBundle, vocabulary: Vocabulary) -> None:
        self._graph = loaded.graph(bundle.ENCODER)
        self._vector_VE = torch.from_numpy(vocabulary.vector_VE)

    def __call__(self, histories: Sequence[History]) -> tuple[Tensor, list[Tensor]]:
        """Hidden states [B, C] after the last event, and each request's cache [L, 2, H, length + 1, D]."""
        lengths = [len(history) for history in histories]
        padded = -(-(max(lengths) + 1) // POSITION_STEP) * POSITION_STEP - 1
        row_BN = _pad([history.item_row_N for history in histories], padded)
        hidden_BC, cache_BL2HTD = self._graph(
            self._vector_VE[row_BN],
            _pad([history.actions_N for history in histories], padded),
            _pad([history.timestamp_N for history in histories], padded),
            _pad([history.surface_N for history in histories], padded),
            torch.tensor(lengths),
        )
        caches = [cache_BL2HTD[row, :, :, :, : length + 1] for row, length in enumerate(lengths)]
        return hidden_BC, caches


def _pad(rows: Sequence[Int64s], width: int) -> Tensor:
    padded = np.zeros((len(rows), width), np.int64)
    for index, row in enumerate(rows):
        padded[index, : len(row)] = row
    return torch.from_numpy(padded)


def pad_vectors(rows: Sequence[Floats], step: int) -> Tensor:
    """Matrices [K, E] of different K to one [B, K', E], K' the next multiple of `step`, padded with zeros."""
    width = max(step, -(-max(len(row) for row in rows) // step) * step)
    padded = np.zeros((len(rows), width, rows[0].shape[1]), np.float32)
    for index, row in enumerate(rows):
        padded[index, : len(row)] = row
    return torch.from_numpy(padded)
