"""Several query embeddings from one encoded history, by autoregressive steps (PinRec §2.5 and §2.7).

Shapes: B requests, Q query embeddings of one request, R rows of one head call, L layers, H heads,
T positions, D head width, E item width, C hidden width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ensemble.contract import Floats, Int64s
from ensemble.encoding import HistoryEncoder, Tokens
from ensemble.loaded_bundle import LoadedBundle
from ensemble.prefix_cache import Encoded
from unipinrec import bundle
from unipinrec.queries import QueryPlan, merge_similar, plan_queries

ROW_STEP = 16
"""The head runs on multiples of this many rows, so that its kernels and thus their rounding stay the same."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What one request wants retrieved."""

    request_time: int
    surface: int
    last_event_time: int
    """Unix seconds of the history's last event; 0 where there is none."""
    num_results: int
    outcome_weight_A: Floats


@dataclass(frozen=True, slots=True)
class Queries:
    """The query embeddings of one request in generation order."""

    vector_QE: Floats
    budget_Q: Int64s
    """Items that each may retrieve."""
    origin_Q: NDArray[np.int32]
    """What RETRIEVED_BY reports of each."""


class QueryGenerator:
    """The retrieval head over an encoder that continues histories, with the bundle's defaults.

    Keys and values of what is fed back stay in scratch memory of this call: the slot that ranking reads never
    holds them.
    """

    def __init__(self, loaded: LoadedBundle, encoder: HistoryEncoder) -> None:
        self._head = loaded.graph(bundle.RETRIEVAL_HEAD)
        self._encoder = encoder
        self._model = loaded.manifest.model
        self._defaults = loaded.manifest.defaults

    def __call__(self, asked: Sequence[Asked], encoded: Sequence[Encoded]) -> list[Queries]:
        """Query embeddings of every request behind its encoded history."""
        plans = [self._plan(one) for one in asked]
        vectors = [np.empty((len(plan.budget_Q), self._model.item_dim), np.float32) for plan in plans]
        hidden_BC = torch.stack([one.hidden_C for one in encoded])
        scratch = [_Scratch(one, plan.steps - 1) for one, plan in zip(encoded, plans, strict=True)]
        previous = [one.last_event_time for one in asked]
        for step in range(max(plan.steps for plan in plans)):
            fed = [place for place, plan in enumerate(plans) if step + 1 < plan.steps]
            query_BE = self._step(step, asked, plans, vectors, hidden_BC, fed)
            if fed:
                hidden_BC = self._feed_back(fed, query_BE, asked, previous, scratch, hidden_BC)
                previous = [one.request_time for one in asked]
        return [self._finish(plan, vector_QE) for plan, vector_QE in zip(plans, vectors, strict=True)]

    def _plan(self, asked: Asked) -> QueryPlan:
        wanted = min(self._defaults.over_fetch * asked.num_results, self._model.max_candidates)
        steps, offsets = self._defaults.retrieval_steps, len(self._model.time_offsets_s)
        return plan_queries(wanted, asked.outcome_weight_A, steps, offsets)

    def _step(
        self,
        step: int,
        asked: Sequence[Asked],
        plans: Sequence[QueryPlan],
        vectors: Sequence[Floats],
        hidden_BC: Tensor,
        fed: Sequence[int],
    ) -> Tensor:
        """Fill in this step's query embeddings; returns those to feed back, one for each of `fed`."""
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
        for vector_QE, place in zip(vectors, places, strict=True):
            vector_QE[place] = query_RE[begin : begin + len(place)].numpy()
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

    def _finish(self, plan: QueryPlan, vector_QE: Floats) -> Queries:
        kept_Q, budget_Q = merge_similar(vector_QE, plan.budget_Q, self._defaults.merge_cosine)
        origin_Q = plan.origins(self._model.num_actions, len(self._model.time_offsets_s))
        return Queries(vector_QE[kept_Q], budget_Q, origin_Q[kept_Q])


class _Scratch:
    """One request's keys and values with room for what is fed back; nothing where nothing is."""

    def __init__(self, encoded: Encoded, room: int) -> None:
        self._length = encoded.handle.length
        if room:
            past_L2HTD = encoded.read_past()
            shape = (*past_L2HTD.shape[:3], self._length + room, past_L2HTD.size(4))
            self._whole_L2HTD = past_L2HTD.new_empty(shape)
            self._whole_L2HTD[:, :, :, : self._length] = past_L2HTD

    def continue_with(self, query_E: Tensor, asked: Asked, previous_time: int) -> Tokens:
        """A query embedding as the next event, its action masked (PinRec §2.5)."""
        position = self._length
        self._length += 1
        fields = (0, 1, asked.request_time, previous_time, asked.surface, position)
        return Tokens(query_E[None], np.array(fields, np.int64)[:, None], position, self._whole_L2HTD)
