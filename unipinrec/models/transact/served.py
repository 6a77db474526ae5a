"""What a bundle holds of a second ranker, and what serving runs of it: the trained module itself, with the
embedder's outputs in the embedder's place.

Shapes: C candidates, V items, N added ones, E item width, W width of another model's vectors, A actions.
"""

from dataclasses import fields, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import embedding

from unipinrec.arrays import Float32s, Int64s
from unipinrec.data.history import History
from unipinrec.models.common.exports import Exports, Reloaded
from unipinrec.models.common.item_graph import EMBEDDER as EMBEDDER_GRAPH
from unipinrec.models.common.item_graph import item_graph
from unipinrec.models.common.offline import OfflineRequest
from unipinrec.models.transact.batch import RequestBatch
from unipinrec.models.transact.config import DAY_S, SecondRankerConfig, TransactConfig, TransactV2Config
from unipinrec.models.transact.module import TransAct, TransActV2
from unipinrec.models.transact.offline import OfflineSecondRanker
from unipinrec.models.transact.search import quantised

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
    """Return weights, the embedder and its outputs; what serving makes of them is compared with the model."""
    weights = {
        name: weight for name, weight in model.state_dict().items() if not name.startswith(f"{EMBEDDER}.")
    }
    reloaded = Reloaded(
        partial(_load_probabilities, config=model.config),
        Probabilities(model),
        [(probe(model, lengths, seed),) for seed, lengths in enumerate([(0, 1, 40, 300), (2_000,)])],
    )
    vectors = {f"{EMBEDDER}.vector_VE": model.embedder.all_vectors()}
    return Exports({EMBEDDER_GRAPH: item_graph(model.embedder)}, weights | vectors, reloaded=reloaded)


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


class AddedItems:
    """Rows behind the catalogue's, for items that are added while serving.

    A new item's rates are the prior's; one that the catalogue has keeps its own.
    """

    def __init__(self, ranker: OfflineSecondRanker) -> None:
        self._ranker = ranker
        self._items = ranker.model.config.num_items
        self._length = 0
        rates, model = ranker.rates, ranker.model
        per_item = (field.name for field in fields(rates) if field.name.endswith(("_V", "_VA")))
        self._columns = {name: torch.from_numpy(getattr(rates, name)) for name in per_item}
        self._columns["vector_VE"] = model.embedder.get_buffer("vector_VE")
        if isinstance(model, TransActV2):
            self._columns["search_VW"] = model.search_VW

    def __len__(self) -> int:
        return self._length

    def extend(self, given_NW: Float32s, vector_NE: Float32s, base_row_N: Int64s) -> None:
        """Add items: vectors of the model that gave some for the catalogue's too, the embedder's own, and the
        items' rows in the catalogue, or -1."""
        if not len(base_row_N):
            return
        first, end = self._items + self._length, self._items + self._length + len(base_row_N)
        row_N, known_N = torch.from_numpy(base_row_N).clamp(min=0), torch.from_numpy(base_row_N >= 0)
        for name, column in self._columns.items():
            if end > len(column):
                larger = column.new_empty((end + self._items // 8, *column.shape[1:]))
                larger[:first] = column[:first]
                self._columns[name] = column = larger
            if name == "vector_VE":
                column[first:end] = torch.from_numpy(vector_NE)
            elif name == "search_VW":
                column[first:end] = quantised(torch.from_numpy(given_NW))
            else:
                column[first:end] = column[row_N] * known_N.view(-1, *(1 for _ in column.shape[1:]))
        self._length += len(base_row_N)
        shown = {name: column[:end] for name, column in self._columns.items()}
        self._ranker.model.embedder.vector_VE = shown.pop("vector_VE")
        if isinstance(self._ranker.model, TransActV2):
            self._ranker.model.search_VW = shown.pop("search_VW")
        rates = {name: column.numpy() for name, column in shown.items()}
        self._ranker.rates = replace(self._ranker.rates, **rates)


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
