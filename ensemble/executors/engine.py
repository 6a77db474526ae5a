"""What the model nodes compute with, on whatever device.

Shapes: N events of one history, X positions to compute, K candidates, A actions, C hidden width.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, Protocol

import numpy as np
from prometheus_client.metrics_core import Metric

from ensemble.arrays import Floats, Int64s
from ensemble.executors.generation import Asked, Queries
from ensemble.kv.prefill import CachedSequence, Prefiller
from ensemble.kv.slot_storage import PoolMemory, SlotLayout, Storage
from unipinrec.data.history import History


@dataclass(frozen=True, slots=True)
class ScoringRow(Generic[Storage]):
    """The candidates of a request."""

    storage: Storage
    place: CachedSequence
    item_row_K: Int64s
    request_time: int
    surface: int
    history: History
    hidden_C: Floats
    """After the last event of the history, as retrieval had it."""


Use = Literal["encode", "generate", "score"]


class Engine(PoolMemory[Storage], Protocol[Storage]):
    """Fills slots, generates behind them and scores over them, under `torch.inference_mode`. A storage is one
    that the same engine made or opened."""

    pool_wait_s: float
    """Seconds that a node waits at its start for a pool that it may prepare for."""

    @property
    def encode(self) -> Prefiller[Storage]:
        """Fills slots of any storage that this process made."""

    def prepare(self, storage: Storage, uses: Sequence[Use]) -> None:
        """Load, compile and capture what the uses of a storage need, so that no request waits for it."""

    def layout(self, slots: int) -> SlotLayout:
        """Return the layout of a pool of so many slots."""

    def private(self) -> Storage:
        """Return a storage of spare slots alone."""

    def generate(
        self, storage: Storage, asked: Sequence[Asked], places: Sequence[CachedSequence]
    ) -> list[Queries]:
        """Return the query embeddings of every request behind its encoded history, similar ones merged."""

    def score(self, rows: Sequence[ScoringRow[Storage]]) -> list[Floats]:
        """Return action probabilities [K, A] in float32 of every row, whose storages others may have made."""

    def collect(self) -> Iterable[Metric]:
        """Yield what it has counted, as a collector of Prometheus' library does."""


EVENT_FIELDS = ("item", "actions", "timestamp", "previous", "surface")
"""What `event_columns` returns."""


def event_columns(history: History, cached: int) -> tuple[Int64s, ...]:
    """Return item row, actions, timestamp, timestamp of the event before and surface, [X] each, of all
    positions from `cached` on.

    BOS, which stands before the events, has the fields of any item, which it does not read.
    """
    columns = np.zeros((len(EVENT_FIELDS), len(history) + 1), np.int64)
    columns[0, 1:] = history.item_row_N
    columns[1, 1:] = history.actions_N
    columns[2, 1:] = history.timestamp_N
    columns[3, 2:] = history.timestamp_N[:-1]
    columns[4, 1:] = history.surface_N
    return tuple(columns[:, cached:])
