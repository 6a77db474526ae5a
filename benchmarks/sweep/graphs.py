"""A model's graphs of random weights, and slots to run them on, in this process.

Shapes: B requests, K candidates, A actions, L layers, H heads, T positions, D head width, V items, X events,
E item width.
"""

import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.random_weights import spread_weights
from ensemble.executors.torchscript.encoder import HistoryEncoder
from ensemble.kv.prefill import Prefill
from ensemble.kv.shared_memory import SharedMemoryStorage
from unipinrec.bundle import UNIFIED
from unipinrec.data.history import History
from unipinrec.models.registry import find_model
from unipinrec.models.unified.config import preset
from unipinrec.models.unified.graphs import EncoderGraph, RankingHeadGraph

PRESET = "bench-cpu"
EVENTS, CANDIDATES, APPENDED = 512, 128, 8
ITEMS, ACTIONS = 5_000, 4
SEED = 3

Graph = Callable[..., Tensor]


def scripted(graph: nn.Module) -> Graph:
    """Return a graph as a bundle holds it."""
    with warnings.catch_warnings():
        # TorchScript is deprecated upstream; it is what a bundle holds.
        warnings.simplefilter("ignore", DeprecationWarning)
        frozen: Graph = torch.jit.freeze(torch.jit.script(graph))
    return frozen


class Slots:
    """Zeroed slots of one shape in this process's memory, in place of a pool's."""

    def __init__(self, shape_L2HTD: Sequence[int], width: int, dtype: torch.dtype) -> None:
        self.memory: defaultdict[int, Tensor] = defaultdict(lambda: torch.zeros(*shape_L2HTD, dtype=dtype))
        self._hidden = torch.zeros(width)

    @contextmanager
    def write(self, slot: int, _cached: int, _length: int) -> Iterator[Tensor]:
        """Yield the slot itself."""
        yield self.memory[slot]

    def hidden(self, _slot: int) -> Tensor:
        """Return a place for the hidden state after a history, which nobody reads."""
        return self._hidden


class ServedGraphs:
    """Encoder and ranking head of the preset, which run as they are served unless `make` says otherwise."""

    def __init__(
        self,
        max_history: int = EVENTS,
        make: Callable[[nn.Module], Graph] = scripted,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        config = self.config = preset(PRESET, num_items=ITEMS, num_actions=ACTIONS, max_history=max_history)
        # What `spread_weights` leaves as it is must be the same in all graphs, too.
        torch.manual_seed(SEED)
        model = find_model(UNIFIED).make(config).eval()
        spread_weights(model, SEED)
        self._vector_VE = model.embedder.all_vectors()
        graphs = EncoderGraph(model), RankingHeadGraph(model)
        encode, self._rank = (make(graph.eval().to(dtype)) for graph in graphs)

        def in_dtype(vector_XE: Tensor, *rest: Any) -> Tensor:
            return encode(vector_XE.to(dtype), *rest)

        self.encoder = HistoryEncoder(in_dtype, self._vector_VE.numpy().__getitem__)
        shape = (config.layers, 2, config.heads, config.max_positions, config.head_dim)
        self._slots = Slots(shape, config.width, dtype)
        self._dtype = dtype
        self._draw = np.random.default_rng(SEED)

    @property
    def slot_mib(self) -> float:
        """Keys and values of one slot."""
        return self._slots.memory[0].nbytes / 2**20

    def history(self, length: int = EVENTS) -> History:
        """Return random events."""
        return History(
            item_row_N=self._draw.integers(ITEMS, size=length),
            actions_N=self._draw.integers(1, 2**ACTIONS, size=length),
            timestamp_N=1_700_000_000 + self._draw.integers(1, 9_000, size=length).cumsum(),
            surface_N=np.zeros(length, np.int64),
        )

    def encode(self, histories: Sequence[History], cached: int = 0) -> None:
        """Continue the slots of as many requests behind `cached` positions."""
        storage = cast(SharedMemoryStorage, self._slots)
        self.encoder(storage, [Prefill(history, cached, slot) for slot, history in enumerate(histories)])

    def rank(self, batch: int = 1, length: int = EVENTS, candidates: int = CANDIDATES) -> Tensor:
        """Return probabilities [B, K, A] of candidates over the slots of as many requests."""
        vector_BKE = self._vector_VE[:candidates].expand(batch, -1, -1).to(self._dtype)
        item_row_BK = torch.arange(candidates).expand(batch, -1)
        time_B = torch.full((batch,), 1_800_000_000)
        hidden_BC = torch.zeros(batch, self.config.width, dtype=self._dtype)
        event_N = torch.arange(length)
        events = self._vector_VE[event_N % ITEMS].to(self._dtype), event_N % 2**ACTIONS, time_B[0] - event_N
        past_L2HTD = [self._slots.memory[slot][:, :, :, : length + 1] for slot in range(batch)]
        return self._rank(
            vector_BKE,
            item_row_BK,
            time_B,
            torch.zeros_like(time_B),
            hidden_BC,
            *([column] * batch for column in events),
            past_L2HTD,
        )
