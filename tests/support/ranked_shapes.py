"""A second ranker of random weights, and requests to rank at a GPU's shapes, of which a CPU computes too."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from ensemble.executors.cuda.ranker_shapes import RankingShapes
from ensemble.executors.cuda.second_ranker import GpuSecondRanker, Kernels
from tests.support.random_rankers import transact, transact_v2
from tests.support.slate_requests import ACTIONS, ITEMS, NOW, SURFACES
from unipinrec.arrays import Int64s
from unipinrec.data.history import History
from unipinrec.models.common.offline import OfflineRequest
from unipinrec.models.transact.fixed import layers_of
from unipinrec.models.transact.module import TransAct, TransActV2
from unipinrec.models.transact.search import Nearest, nearest
from unipinrec.models.transact.served import load_second_ranker, second_ranker_exports

MAX_EVENTS, MAX_IMPRESSIONS = 64, 40
LENGTHS = ((0, 0), (1, 0), (0, 1), (9, 7), (5, 90), (64, 40), (500, 3), (2, 2), (30, 30))
"""Events and impressions, some more than a model reads."""
COUNTS = (3, 8, 1, 0, 8, 2, 5, 30, 4)
"""Candidates; one has more than a launch."""


def random_model(name: str, **changes: Any) -> TransAct | TransActV2:
    """Return a model as a bundle serves it, with rates of which no two items have the same."""
    limits = {"max_impressions": MAX_IMPRESSIONS} | changes
    model = transact(**limits) if name == "transact" else transact_v2(**{"max_events": MAX_EVENTS} | limits)
    for _, buffer in model.heads.rates.named_buffers():
        buffer.copy_(torch.randn(buffer.shape).abs())
    with tempfile.TemporaryDirectory() as folder:
        path, weights = Path(folder, "weights.safetensors"), second_ranker_exports(model).weights
        assert weights is not None
        save_file(dict(weights), path)
        return load_second_ranker(path, model.config)


def shapes_of(model: TransAct | TransActV2) -> RankingShapes:
    """Return few and small shapes."""
    config = model.config
    rows = max(config.max_events, config.max_impressions)
    return RankingShapes(max_rows=rows, max_candidates=8, batches=(1, 4), most=16)


def requests_of(lengths: Sequence[tuple[int, int]] = LENGTHS, seed: int = 0) -> list[OfflineRequest]:
    """Return requests of so many events and impressions."""
    draw = np.random.default_rng(seed)
    return [
        OfflineRequest(
            history=_history(draw, events, impressions),
            request_time=NOW,
            surface=int(draw.integers(SURFACES)),
        )
        for events, impressions in lengths
    ]


def candidates_of(counts: Sequence[int] = COUNTS, seed: int = 0) -> list[Int64s]:
    """Return so many item rows for each request."""
    draw = np.random.default_rng((3, seed))
    return [draw.permutation(ITEMS)[:count] for count in counts]


def on_cpu(model: TransAct | TransActV2) -> GpuSecondRanker:
    """Return what a GPU computes, by PyTorch on a CPU."""
    return GpuSecondRanker(model, torch.device("cpu"), plain_kernels(model), shapes=shapes_of(model))


def plain_kernels(model: TransAct | TransActV2) -> Kernels | None:
    """Return what PyTorch computes in the kernels' place."""
    return Kernels(_search, layers_of(model.encoder)) if isinstance(model, TransActV2) else None


def _search(
    vector_VE: Tensor,
    row_N: Tensor,
    span_R2: Tensor,
    candidate_CE: Tensor,
    candidate_offset_R1: Tensor,
    count: int,
    longest: int,
) -> Nearest:
    asked_R = candidate_offset_R1.diff() > 0
    assert (span_R2.diff(dim=1).squeeze(1)[asked_R] <= longest).all()
    return nearest(vector_VE, row_N, span_R2, candidate_CE, candidate_offset_R1, count)


def _history(draw: np.random.Generator, events: int, impressions: int) -> History:
    length = events + impressions
    acted_N = draw.permutation(length) < events
    return History(
        item_row_N=draw.integers(ITEMS, size=length),
        actions_N=draw.integers(1, 2**ACTIONS, size=length) * acted_N,
        timestamp_N=NOW - np.sort(draw.integers(1, 90 * 86_400, size=length))[::-1],
        surface_N=draw.integers(SURFACES, size=length),
    )
