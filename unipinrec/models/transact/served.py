"""What a bundle holds of a second ranker, and what serving runs of it: the trained module itself, with the
embedder's outputs in the embedder's place.

Shapes: C candidates, V items, E item width, A actions.
"""

from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import embedding

from unipinrec.data.history import History
from unipinrec.models.common.exports import Exports, Reloaded
from unipinrec.models.common.offline import OfflineRequest
from unipinrec.models.transact.batch import RequestBatch
from unipinrec.models.transact.config import DAY_S, SecondRankerConfig, TransactConfig, TransactV2Config
from unipinrec.models.transact.module import TransAct, TransActV2
from unipinrec.models.transact.offline import OfflineSecondRanker

EMBEDDER = "embedder"


class ItemTable(nn.Module):
    """Vectors of the whole catalogue, in place of what computes them."""

    def __init__(self, config: SecondRankerConfig) -> None:
        super().__init__()
        self.vector_VE: Tensor = nn.Buffer(torch.empty(config.num_items, config.item_dim))

    def forward(self, item_row: Tensor) -> Tensor:
        """Return vectors [..., E] of item rows [...]."""
        return embedding(item_row, self.vector_VE)


class Probabilities(nn.Module):
    """A second ranker as it answers."""

    def __init__(self, model: TransAct | TransActV2) -> None:
        super().__init__()
        self.model = model.eval()

    def forward(self, requests: RequestBatch) -> Tensor:
        """Return probabilities [C, A]."""
        return torch.sigmoid(self.model(requests))


def second_ranker_exports(model: TransAct | TransActV2) -> Exports:
    """Return weights and the embedder's outputs; what serving makes of them is compared with the model."""
    weights = {
        name: weight for name, weight in model.state_dict().items() if not name.startswith(f"{EMBEDDER}.")
    }
    reloaded = Reloaded(
        partial(_load_probabilities, config=model.config),
        Probabilities(model),
        [(probe(model, lengths, seed),) for seed, lengths in enumerate([(0, 1, 40, 300), (2_000,)])],
    )
    vectors = {f"{EMBEDDER}.vector_VE": model.embedder.all_vectors()}
    return Exports({}, weights | vectors, reloaded=reloaded)


def load_second_ranker(path: Path, config: SecondRankerConfig) -> TransAct | TransActV2:
    """Return the model of a bundle's file of weights, in evaluation mode."""
    model = empty_second_ranker(config)
    model.load_state_dict(load_file(path), assign=True)
    return model.eval()


def empty_second_ranker(config: SecondRankerConfig) -> TransAct | TransActV2:
    """Return the model whose weights a bundle holds, before it has them."""
    model = _make(config)
    model.register_module(EMBEDDER, ItemTable(config))
    model.computes_vectors = False
    return model


def probe(model: TransAct | TransActV2, lengths: tuple[int, ...], seed: int) -> RequestBatch:
    """Return requests of random histories of these lengths and random candidates."""
    config, draw = model.config, np.random.default_rng(seed)
    now = 1_700_000_000
    requests = [
        OfflineRequest(
            history=History(
                item_row_N=draw.integers(config.num_items, size=length),
                actions_N=draw.integers(2**config.num_actions, size=length) * draw.integers(2, size=length),
                timestamp_N=now - np.sort(draw.integers(90 * DAY_S, size=length))[::-1],
                surface_N=draw.integers(config.num_surfaces, size=length),
            ),
            request_time=now,
            surface=int(draw.integers(config.num_surfaces)),
        )
        for length in lengths
    ]
    candidates = [draw.integers(config.num_items, size=draw.integers(1, 33)) for _ in lengths]
    return OfflineSecondRanker(model).request_batch(requests, candidates)


def _load_probabilities(path: Path, config: SecondRankerConfig) -> Probabilities:
    return Probabilities(load_second_ranker(path, config))


def _make(config: SecondRankerConfig) -> TransAct | TransActV2:
    if isinstance(config, TransactConfig):
        return TransAct(config)
    if isinstance(config, TransactV2Config):
        return TransActV2(config)
    raise TypeError(f"config is a {type(config).__name__}; allowed: one of TransAct or TransAct V2")
