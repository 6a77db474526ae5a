"""Encodes events of several requests in one forward, whatever their number.

Shapes: X positions of all requests one after another, B requests, L layers, H heads, T positions (BOS first),
D head width, E item width, C hidden width.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ensemble.arrays import Floats, Int64s
from ensemble.executors.engine import event_columns
from ensemble.kv.prefill import Prefill
from ensemble.kv.shared_memory import SharedMemoryStorage
from unipinrec.models.common.trunk import ROW_STEP


@dataclass(frozen=True, slots=True)
class Tokens:
    """Events of a request as the encoder graph takes them."""

    vector_XE: Tensor
    field_6X: Int64s
    """Actions, masked, timestamp, timestamp of the event before, surface, position."""
    cached: int
    memory_L2HTD: Tensor
    """Holds the first `cached` positions and gets the others."""


class HistoryEncoder:
    """The encoder graph with the item vectors that it reads. Positions stand one after another without
    padding between requests; only their sum is rounded up."""

    def __init__(self, graph: Callable[..., Tensor], vectors: Callable[[Int64s], Floats]) -> None:
        """`graph` is called as `EncoderGraph`; `vectors` turns item rows [X] into vectors [X, E]."""
        self._graph = graph
        self._vectors = vectors
        self.padding = 0

    def __call__(self, storage: SharedMemoryStorage, histories: Sequence[Prefill]) -> None:
        """Fill the slots: keys, values, and the hidden state after each history's last event."""
        with ExitStack() as stack:
            rows = []
            for row in histories:
                slot = storage.write(row.slot, row.cached, len(row.history) + 1)
                rows.append(self._tokens(row, stack.enter_context(slot)))
            hidden_BC = self.extend(rows)
        for row, hidden_C in zip(histories, hidden_BC, strict=True):
            storage.hidden(row.slot).copy_(hidden_C)

    def extend(self, rows: Sequence[Tokens]) -> Tensor:
        """Return hidden states [B, C] after tokens, which need not be events of a history."""
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
            [row.memory_L2HTD for row in rows],
        )
        return hidden_BC[: len(rows)]

    def _tokens(self, row: Prefill, memory_L2HTD: Tensor) -> Tokens:
        item_X, actions_X, timestamp_X, previous_X, surface_X = event_columns(row.history, row.cached)
        masked_X = np.zeros_like(actions_X)
        position_X = np.arange(row.cached, row.cached + len(item_X))
        field_6X = np.stack([actions_X, masked_X, timestamp_X, previous_X, surface_X, position_X])
        return Tokens(torch.from_numpy(self._vectors(item_X)), field_6X, row.cached, memory_L2HTD)
