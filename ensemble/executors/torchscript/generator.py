"""Several query embeddings from one encoded history, by autoregressive steps (PinRec §2.5 and §2.7).

Shapes: B requests, Q query embeddings of one request, R rows of one head call, L layers, H heads,
T positions, D head width, E item width, C hidden width.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from ensemble.arrays import Floats, Int64s
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
        """Query embeddings [Q, E] of every request behind its encoded history, in generation order."""
        hidden_BC = torch.stack([storage.hidden(place.slot) for place in places])
        scratch = [
            _Scratch(storage, place, plan.steps - 1) for place, plan in zip(places, plans, strict=True)
        ]
        previous = [one.last_event_time for one in asked]
        made: list[list[Floats]] = [[] for _ in plans]
        for step in range(max(plan.steps for plan in plans)):
            fed = [place for place, plan in enumerate(plans) if step + 1 < plan.steps]
            query_BE = self._step(step, asked, plans, made, hidden_BC, fed)
            if fed:
                hidden_BC = self._feed_back(fed, query_BE, asked, previous, scratch, hidden_BC)
                previous = [one.request_time for one in asked]
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
        """Add this step's query embeddings; returns those to feed back, one for each of `fed`."""
        places = [np.flatnonzero(plan.step_Q == step) for plan in plans]
        row_R = np.concatenate([np.repeat(np.arange(len(plans)), [len(place) for place in places]), fed])
        outcomes = [plan.outcome_Q[place] for plan, place in zip(plans, places, strict=True)]
        offsets = [plan.offset_Q[place] for plan, place in zip(plans, places, strict=True)]
        leading = np.array([plans[row].leading_outcome for row in fed], np.int64)
        query_RE = self._run_head(
            asked,
            hidden_BC,
            row_R.astype(np.int64),
            np.concatenate([*outcomes, leading]),
            np.concatenate([*offsets, np.zeros_like(leading)]),
        )
        begin = 0
        for vectors, place in zip(made, places, strict=True):
            vectors.append(query_RE[begin : begin + len(place)].numpy())
            begin += len(place)
        return query_RE[begin:]

    def _run_head(
        self, asked: Sequence[Asked], hidden_BC: Tensor, row_R: Int64s, outcome_R: Int64s, offset_R: Int64s
    ) -> Tensor:
        filling = -len(row_R) % ROW_STEP
        row_R, outcome_R, offset_R = (np.pad(array, (0, filling)) for array in (row_R, outcome_R, offset_R))
        query_RE: Tensor = self._head(
            hidden_BC[torch.from_numpy(row_R)],
            torch.tensor([asked[row].request_time for row in row_R]),
            torch.tensor([asked[row].surface for row in row_R]),
            torch.from_numpy(outcome_R),
            torch.from_numpy(offset_R),
        )
        return query_RE[: len(row_R) - filling]

    def _feed_back(
        self,
        fed: Sequence[int],
        query_BE: Tensor,
        asked: Sequence[Asked],
        previous: Sequence[int],
        scratch: "Sequence[_Scratch]",
        hidden_BC: Tensor,
    ) -> Tensor:
        """The next hidden states of the requests in `fed`; the others keep theirs."""
        after_BC = self._encoder.extend(
            [
                scratch[row].continue_with(query_E, asked[row], previous[row])
                for row, query_E in zip(fed, query_BE, strict=True)
            ]
        )
        hidden_BC = hidden_BC.clone()
        hidden_BC[torch.tensor(fed)] = after_BC
        return hidden_BC


class _Scratch:
    """One request's keys and values with room for what is fed back; nothing where nothing is."""

    def __init__(self, storage: SharedMemoryStorage, place: CachedSequence, room: int) -> None:
        self._length = place.length
        if room:
            past_L2HTD = storage.read(place.slot, place.length)
            shape = (*past_L2HTD.shape[:3], self._length + room, past_L2HTD.size(4))
            self._whole_L2HTD = past_L2HTD.new_empty(shape)
            self._whole_L2HTD[:, :, :, : self._length] = past_L2HTD

    def continue_with(self, query_E: Tensor, asked: Asked, previous_time: int) -> Tokens:
        """A query embedding as the next event, its action masked (PinRec §2.5)."""
        position = self._length
        self._length += 1
        fields = (0, 1, asked.request_time, previous_time, asked.surface, position)
        return Tokens(query_E[None], np.array(fields, np.int64)[:, None], position, self._whole_L2HTD)
