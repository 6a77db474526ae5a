"""Random batches, in host memory as the server gets them and on the device as forwards read them.

Shapes: B rows, N positions of a history (BOS first), K candidates, V items, E item width.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.gpu.shape import Shape
from benchmarks.random_weights import spread_weights
from benchmarks.workload import ASKED_AFTER_S, EventSpace, GrowingHistory
from ensemble.arrays import Floats, Int64s
from ensemble.executors.engine import EVENT_FIELDS, event_columns
from unipinrec.data.history import History
from unipinrec.models.unified.served import ServedModel

SEED = 17


@dataclass(frozen=True, slots=True)
class Batch:
    """Requests of one launch."""

    histories: tuple[History, ...]
    candidate_BK: Int64s
    """Item rows."""
    request_time_B: Int64s
    surface_B: Int64s
    fields: Mapping[str, Tensor]
    """On the device: `EVENT_FIELDS` [B, N], `candidate` [B, K], `time` [B] and `asked_surface` [B]."""


def random_batches(shape: Shape, device: torch.device) -> list[Batch]:
    """One for each of the shape's sets."""
    return [_batch(shape, place, device) for place in range(shape.sets)]


def random_model(shape: Shape, device: torch.device) -> ServedModel:
    """In float32, for inference; the same every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = ServedModel(shape.model).eval().requires_grad_(False)
    spread_weights(model, SEED)
    return model.to(device)


def random_vectors(shape: Shape) -> Floats:
    """Unit vectors [V, E] of all items."""
    draw = torch.Generator().manual_seed(SEED)
    vector_VE = torch.randn(shape.model.num_items, shape.model.item_dim, generator=draw)
    made: Floats = F.normalize(vector_VE, dim=-1).numpy()
    return made


def _batch(shape: Shape, place: int, device: torch.device) -> Batch:
    model = shape.model
    space = EventSpace(
        items=model.num_items,
        actions=model.num_actions,
        surfaces=model.num_surfaces,
        max_history=model.max_history,
        window_block=model.window_block,
    )
    draw = np.random.default_rng((SEED, place))
    histories = tuple(
        GrowingHistory(space, (SEED, place, row), shape.positions - 1).history for row in range(shape.batch)
    )
    candidate_BK = draw.integers(model.num_items, size=(shape.batch, shape.candidates))
    time_B = np.array([history.timestamp_N[-1] + ASKED_AFTER_S for history in histories])
    surface_B = draw.integers(model.num_surfaces, size=shape.batch)
    columns = np.stack([np.stack(event_columns(history, 0)) for history in histories], axis=1)
    fields = dict(zip(EVENT_FIELDS, columns, strict=True))
    fields |= {"candidate": candidate_BK, "time": time_B, "asked_surface": surface_B}
    on_device = {name: torch.from_numpy(np.ascontiguousarray(one)).to(device) for name, one in fields.items()}
    return Batch(histories, candidate_BK, time_B, surface_B, on_device)
