"""Several query embeddings from one encoded history, by autoregressive steps (PinRec §2.5 and §2.7).

Shapes: B requests, Q query embeddings of one request, R rows of one head call, L layers, H heads,
T positions, D head width, E item width, C hidden width.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from ensemble.arrays import Floats
from ensemble.executors.generation import Asked
from ensemble.executors.torchscript.encoder import HistoryEncoder, Tokens
from ensemble.kv.prefill import CachedSequence
from ensemble.kv.shared_memory import SharedMemoryStorage
from unipinrec.models.unified.queries import QueryPlan

ROW_STEP = 16
"""The head runs on multiples of this many rows, so that no lone last row takes another kernel."""


class QueryGenerator:
    """The retrieval head over an encoder that continues histories.

    Keys and values of what is fed back stay in scratch memory of this call: the slot that ranking reads never
    holds them.
    """

    def __init__(self, head: Callable[..., Tensor], encoder: HistoryEncoder) -> None:
        self._head = head
        self._encoder = encoder

    def __call__(
        self,
        storage: SharedMemoryStorage,
        plans: Sequence[QueryPlan],
        asked: Sequence[Asked],
        places: Sequence[CachedSequence],
    ) -> list[Floats]:
        """Return the query embeddings [Q, E] of every request, in generation order."""
        hidden_BC = torch.stack([storage.hidden(place.slot) for place in places])
        scratch = [
            _Scratch(storage, place, request, plan.steps - 1)
            for place, request, plan in zip(places, asked, plans, strict=True)
        ]
        made: list[list[Floats]] = [[] for _ in plans]
        for step in range(max(plan.steps for plan in plans)):
            fed = [row for row, plan in enumerate(plans) if step + 1 < plan.steps]
            query_BE = self._step(step, asked, plans, made, hidden_BC, fed)
            if fed:
                events = [scratch[row].append(query_E) for row, query_E in zip(fed, query_BE, strict=True)]
                hidden_BC = hidden_BC.index_copy(0, torch.tensor(fed), self._encoder.extend(events))
        return [np.concatenate(vectors) for vectors in made]

    def _step(
        self,
        step: int,
        asked: Sequence[Asked],
        plans: Sequence[QueryPlan],
        made: Sequence[list[Floats]],
        hidden_BC: Tensor,
        fed: Sequence[int],
    ) -> Tensor:
        """Add this step's query embeddings to `made`; return those to feed back, one for each of `fed`."""
        places = [np.flatnonzero(plan.step_Q == step) for plan in plans]
        counts = [len(place) for place in places]
        leading = np.array([plans[row].leading_outcome for row in fed], np.int64)
        outcomes = [plan.outcome_Q[place] for plan, place in zip(plans, places, strict=True)]
        offsets = [plan.offset_Q[place] for plan, place in zip(plans, places, strict=True)]
        columns = (
            np.concatenate([np.repeat(np.arange(len(plans)), counts), fed]).astype(np.int64),
            np.concatenate([*outcomes, leading]),
            np.concatenate([*offsets, np.zeros_like(leading)]),
        )
        filling = -len(columns[0]) % ROW_STEP
        row_R, outcome_R, offset_R = (np.pad(column, (0, filling)) for column in columns)
        query_RE: Tensor = self._head(
            hidden_BC[torch.from_numpy(row_R)],
            torch.tensor([asked[row].request_time for row in row_R]),
            torch.tensor([asked[row].surface for row in row_R]),
            torch.from_numpy(outcome_R),
            torch.from_numpy(offset_R),
        )
        begin = 0
        for vectors, count in zip(made, counts, strict=True):
            vectors.append(query_RE[begin : begin + count].numpy())
            begin += count
        return query_RE[begin : begin + len(fed)]


class _Scratch:
    """Keys and values of a request, with positions for what is fed back; nothing where nothing is."""

    def __init__(
        self, storage: SharedMemoryStorage, place: CachedSequence, asked: Asked, positions: int
    ) -> None:
        self._asked = asked
        self._length = place.length
        self._previous_time = asked.last_event_time
        if positions:
            past_L2HTD = storage.read(place.slot, place.length)
            shape = (*past_L2HTD.shape[:3], self._length + positions, past_L2HTD.size(4))
            self._whole_L2HTD = past_L2HTD.new_empty(shape)
            self._whole_L2HTD[:, :, :, : self._length] = past_L2HTD

    def append(self, query_E: Tensor) -> Tokens:
        """A query embedding as the next event, its action masked (PinRec §2.5)."""
        asked, position = self._asked, self._length
        fields = (0, 1, asked.request_time, self._previous_time, asked.surface, position)
        self._length += 1
        self._previous_time = asked.request_time
        return Tokens(query_E[None], np.array(fields, np.int64)[:, None], position, self._whole_L2HTD)
