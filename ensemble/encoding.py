"""Encodes events of several requests in one forward, whatever their number; both model nodes use it.

Shapes: B requests, N events of one history, X positions of all requests one after another, K candidates,
L layers, H heads, T positions (BOS first), D head width, V items, E item width, C hidden width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ensemble.contract import Floats, Int64s
from ensemble.loaded_bundle import LoadedBundle, Vocabulary
from unipinrec import bundle
from unipinrec.data.history import History
from unipinrec.model.trunk import ROW_STEP


@dataclass(frozen=True, slots=True)
class Continuation:
    """A history, the first positions of which are in a slot already."""

    history: History
    cached: int
    """Positions that need not be computed, BOS included; at least one of the history is left."""
    slot_L2HTD: Tensor
    """Memory that gets the keys and values of the others."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """Events of one request as the encoder graph takes them."""

    vector_XE: Tensor
    field_6X: Int64s
    """Actions, masked, timestamp, timestamp of the event before, surface, position."""
    cached: int
    slot_L2HTD: Tensor


class HistoryEncoder:
    """The encoder graph with the item vectors that it reads.

    Positions stand one after another without padding between requests; only their sum is rounded up.
    """

    def __init__(self, graph: Callable[..., Tensor], vector_VE: Tensor) -> None:
        """`graph` is called as `UnifiedRecommender.extend`; `vector_VE` has a row for each item."""
        self._graph = graph
        self._vector_VE = vector_VE
        self.padding = 0
        """Positions computed so far that belonged to nobody."""

    @classmethod
    def of(cls, loaded: LoadedBundle, vocabulary: Vocabulary) -> "HistoryEncoder":
        """The encoder of a bundle."""
        return cls(loaded.graph(bundle.ENCODER), torch.from_numpy(vocabulary.vector_VE))

    def __call__(self, parts: Sequence[Continuation]) -> Tensor:
        """Hidden states [B, C] after each history's last event; keys and values are in the slots."""
        return self.extend([self._tokens(part) for part in parts])

    def extend(self, rows: Sequence[Tokens]) -> Tensor:
        """The same for tokens that need not be events of a history."""
        count = [row.field_6X.shape[1] for row in rows]
        first = [0, *np.cumsum(count).tolist()]
        filling = -first[-1] % ROW_STEP
        self.padding += filling
        field_6X = np.pad(np.concatenate([row.field_6X for row in rows], axis=1), ((0, 0), (0, filling)))
        # Any position but 0, which is BOS.
        field_6X[5, first[-1] :] = 1
        actions_X, masked_X, timestamp_X, previous_X, surface_X, position_X = torch.from_numpy(field_6X)
        vectors = [row.vector_XE for row in rows]
        hidden_BC = self._graph(
            torch.cat([*vectors, vectors[0].new_zeros(filling, vectors[0].size(1))]),
            actions_X,
            masked_X.bool(),
            timestamp_X,
            previous_X,
            surface_X,
            position_X,
            first[:-1],
            [row.cached for row in rows],
            count,
            [row.slot_L2HTD for row in rows],
        )
        return hidden_BC[: len(rows)]

    def _tokens(self, part: Continuation) -> Tokens:
        history = part.history
        field_6T = np.zeros((6, len(history) + 1), np.int64)
        field_6T[0, 1:] = history.actions_N
        field_6T[2, 1:] = history.timestamp_N
        field_6T[3, 2:] = history.timestamp_N[:-1]
        field_6T[4, 1:] = history.surface_N
        field_6T[5] = np.arange(len(history) + 1)
        # BOS has the vector of any item, which it does not read.
        row_T = np.concatenate([[0], history.item_row_N])
        return Tokens(
            self._vector_VE[torch.from_numpy(row_T[part.cached :])],
            field_6T[:, part.cached :],
            part.cached,
            part.slot_L2HTD,
        )


def gather_vectors(vector_VE: Floats, rows: Sequence[Int64s], step: int) -> Tensor:
    """Vectors of item rows [K] of different K, as one [B, K', E], K' the next multiple of `step`.

    Shorter rows are padded with the vector of item 0, which nothing reads. Rows must be below V and not
    negative, as `check_sizes` sees to.
    """
    width = max(step, -(-max(len(row) for row in rows) // step) * step)
    row_BK = np.zeros((len(rows), width), np.int64)
    for index, row in enumerate(rows):
        row_BK[index, : len(row)] = row
    return torch.from_numpy(vector_VE.take(row_BK, axis=0))
