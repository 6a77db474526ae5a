"""Random requests in batches, and a model of random weights that answers them.

Shapes: B rows, N positions of a history (BOS first), K candidates, V items, E item width.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.random_weights import spread_weights
from ensemble.arrays import Floats, Int64s
from ensemble.executors.cuda.encoder import SlotEncoder
from ensemble.executors.cuda.parts import Parts
from ensemble.executors.engine import EVENT_FIELDS, ScoringRow, event_columns
from ensemble.executors.generation import Asked
from ensemble.kv.cuda.device_memory import DeviceAllocator
from ensemble.kv.cuda.device_storage import DeviceStorage
from ensemble.kv.prefill import CachedSequence, Prefill
from ensemble.kv.slot_storage import SlotLayout
from loadtest.histories import ASKED_AFTER_S
from unipinrec.data.history import History
from unipinrec.models.unified.config import UnifiedConfig
from unipinrec.models.unified.served import ServedModel

SEED = 17
FIRST_TIME, LONGEST_GAP_S = 1_700_000_000, 5_000


@dataclass(frozen=True, slots=True)
class Batch:
    """The requests of one launch, as what the nodes' functions take. Each row has the slot of its number."""

    config: UnifiedConfig
    histories: tuple[History, ...]
    candidate_BK: Int64s
    """Item rows."""
    time_B: Int64s
    surface_B: Int64s
    hidden_BC: Floats
    """After each history; drawn at random, as it costs the same."""

    def prefills(self, cached: int = 0) -> list[Prefill]:
        """Return what fills the slots behind `cached` positions of each."""
        return [Prefill(history, cached, row) for row, history in enumerate(self.histories)]

    def sequences(self) -> list[CachedSequence]:
        """Return the filled slots."""
        return [CachedSequence(row, len(history) + 1) for row, history in enumerate(self.histories)]

    def asked(self, num_results: int) -> list[Asked]:
        """Return requests for so many results and for no action in particular."""
        weight_A = np.zeros(self.config.num_actions, np.float32)
        last_B = [int(history.timestamp_N[-1]) for history in self.histories]
        columns = zip(self.time_B.tolist(), self.surface_B.tolist(), last_B, strict=True)
        return [Asked(*row, num_results, weight_A) for row in columns]

    def rows(self, storage: DeviceStorage) -> list[ScoringRow]:
        """Return the candidates over the filled slots of a storage."""
        asked = (self.sequences(), self.candidate_BK, self.time_B.tolist(), self.surface_B.tolist())
        columns = (*asked, self.histories, self.hidden_BC)
        return [ScoringRow(storage, *row) for row in zip(*columns, strict=True)]

    def fields(self, device: torch.device) -> dict[str, Tensor]:
        """Return tensors on the device: `EVENT_FIELDS` and `position` [B, N], `candidate` [B, K], `time` and
        `asked_surface` [B], and `hidden` [B, C]."""
        columns = np.stack([np.stack(event_columns(history, 0)) for history in self.histories], axis=1)
        fields = dict(zip(EVENT_FIELDS, columns, strict=True)) | {
            "position": np.broadcast_to(np.arange(columns.shape[2]), columns.shape[1:]),
            "candidate": self.candidate_BK,
            "time": self.time_B,
            "asked_surface": self.surface_B,
            "hidden": self.hidden_BC,
        }
        return {name: torch.tensor(field, device=device) for name, field in fields.items()}


def filled_storage(batch: Batch, parts: Parts, slots: int, allocator: DeviceAllocator) -> DeviceStorage:
    """Return a storage of so many slots, the first of which hold the histories of a batch."""
    lowered = parts.model.trunk.norm.weight.dtype == torch.bfloat16
    layout = SlotLayout.of_model(batch.config, slots, "bfloat16" if lowered else "float32")
    storage = DeviceStorage.private(layout, len(batch.histories), allocator)
    SlotEncoder(parts, storage)(batch.prefills())
    storage.synchronize()
    return storage


def random_batch(config: UnifiedConfig, rows: int, events: int, candidates: int, seed: int = SEED) -> Batch:
    """Return a batch of histories of so many events, the same for the same seed."""
    draw = np.random.default_rng(seed)
    histories = tuple(random_history(config, draw, events) for _ in range(rows))
    candidate_BK = draw.integers(config.num_items, size=(rows, candidates))
    time_B = np.array([history.timestamp_N[-1] for history in histories]) + ASKED_AFTER_S
    hidden_BC = draw.standard_normal((rows, config.width), np.float32)
    surface_B = draw.integers(config.num_surfaces, size=rows)
    return Batch(config, histories, candidate_BK, time_B, surface_B, hidden_BC)


def random_history(config: UnifiedConfig, draw: np.random.Generator, events: int) -> History:
    """Return so many events of one user."""
    return History(
        item_row_N=draw.integers(config.num_items, size=events),
        actions_N=draw.integers(1, 2**config.num_actions, size=events),
        timestamp_N=FIRST_TIME + draw.integers(1, LONGEST_GAP_S, size=events).cumsum(),
        surface_N=draw.integers(config.num_surfaces, size=events),
    )


def random_model(config: UnifiedConfig, device: torch.device) -> ServedModel:
    """Return a model in float32, for inference; the same every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = ServedModel(config).eval().requires_grad_(False)
    spread_weights(model, SEED)
    return model.to(device)


def random_vectors(config: UnifiedConfig) -> Floats:
    """Return unit vectors [V, E] of all items."""
    draw = torch.Generator().manual_seed(SEED)
    unit_VE: Floats = F.normalize(torch.randn(config.num_items, config.item_dim, generator=draw)).numpy()
    return unit_VE
