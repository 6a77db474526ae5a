"""What the model nodes compute with, on whatever device.

Shapes: N events of one history, X positions to compute, K candidates, A actions.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from prometheus_client.metrics_core import Metric

from ensemble.arrays import Floats, Int64s
from ensemble.executors.generation import Asked, Queries
from ensemble.kv.prefill import CachedSequence, Prefiller
from ensemble.kv.slot_storage import PoolMemory, SlotLayout, SlotStorage
from unipinrec.data.history import History


@dataclass(frozen=True, slots=True)
class ScoringRow:
    """One request's candidates."""

    storage: Any
    place: CachedSequence
    item_row_K: Int64s
    request_time: int
    surface: int


Use = Literal["encode", "generate", "score"]


class Engine(PoolMemory, Protocol):
    """Fills slots, generates behind them and scores over them.

    A storage is one that the same engine made or opened. Spare slots, numbered behind a storage's own, are
    private to the process that made it, and hold what the current batch puts there. Everything that computes
    is called under `torch.inference_mode`.
    """

    pool_wait_s: float
    """Seconds that a node waits at its start for a pool that it may prepare for."""

    @property
    def encode(self) -> Prefiller:
        """Fills slots of any storage that this process made."""

    def prepare(self, storage: Any, uses: Sequence[Use]) -> None:
        """Load, compile and capture what the uses of a storage need, so that no request waits for it."""

    def layout(self, slots: int) -> SlotLayout:
        """The layout of a pool."""

    def private(self) -> SlotStorage:
        """A storage of spare slots alone."""

    def generate(
        self, storage: Any, asked: Sequence[Asked], places: Sequence[CachedSequence]
    ) -> list[Queries]:
        """Query embeddings of every request behind its encoded history."""

    def score(self, rows: Sequence[ScoringRow]) -> list[Floats]:
        """Action probabilities [K, A] of every row, whose slots may be in storages that others made."""

    def collect(self) -> Iterable[Metric]:
        """What it has counted, as a collector of Prometheus' library."""


EVENT_FIELDS = ("item", "actions", "timestamp", "previous", "surface")
"""What `event_columns` returns."""


def event_columns(history: History, cached: int) -> tuple[Int64s, ...]:
    """Item row, actions, timestamp, timestamp of the event before and surface, [X] each, of all positions
    from `cached` on.

    BOS, which stands before the events, has the fields of any item, which it does not read.
    """
    columns = np.zeros((5, len(history) + 1), np.int64)
    columns[0, 1:] = history.item_row_N
    columns[1, 1:] = history.actions_N
    columns[2, 1:] = history.timestamp_N
    columns[3, 2:] = history.timestamp_N[:-1]
    columns[4, 1:] = history.surface_N
    item_X, actions_X, timestamp_X, previous_X, surface_X = columns[:, cached:]
    return item_X, actions_X, timestamp_X, previous_X, surface_X
