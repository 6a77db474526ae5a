"""Query embeddings by autoregressive steps, all of them in one launch (PinRec §2.5 and §2.7).

Shapes: B rows, S steps, M queries of one step, Q query embeddings of one request, E item width,
C hidden width.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ensemble.arrays import Floats
from ensemble.executors.cuda.calls import Bucket
from ensemble.executors.cuda.parts import Parts
from ensemble.executors.cuda.static_call import Field, StaticCall
from ensemble.executors.generation import Asked
from ensemble.kv.cuda.device_storage import DeviceStorage, PositionMap
from ensemble.kv.prefill import CachedSequence
from unipinrec.models.common.slot_attention import BLOCK
from unipinrec.models.unified.queries import QueryPlan


class SlotGenerator:
    """Generates behind slots of one storage. What is fed back stands in scratch blocks, never in a slot. The
    first query of a step is the one to feed back. Nothing returns to the host between steps."""

    def __init__(self, parts: Parts, storage: DeviceStorage, steps: int) -> None:
        """`steps` is the most that a request may take."""
        config = parts.model.config
        queries = config.num_actions * len(config.time_offsets_s) + 1
        self._map = storage.map
        fields = partial(_fields, storage.map, queries)
        self._calls = parts.calls(_Generate(parts, storage), [steps], fields)

    def __call__(
        self, plans: Sequence[QueryPlan], asked: Sequence[Asked], places: Sequence[CachedSequence]
    ) -> list[Floats]:
        """Return query embeddings [Q, E] of every request in generation order, once the device is done."""
        made: dict[int, Floats] = {}
        for call, chosen in self.stage(plans, asked, places):
            call.launch()
            query_BSME = call.result()
            for row, place in enumerate(chosen):
                made[place] = query_BSME[row, plans[place].step_Q, _columns(plans[place])]
        return [made[place] for place in range(len(plans))]

    def stage(
        self, plans: Sequence[QueryPlan], asked: Sequence[Asked], places: Sequence[CachedSequence]
    ) -> Iterator[tuple[StaticCall, list[int]]]:
        """Yield calls that are filled and can be launched, and the places of their requests."""
        for call, _, chosen in self._calls.split([plan.steps for plan in plans]):
            fields = call.blank()
            for row, place in enumerate(chosen):
                plan, request, where = plans[place], asked[place], places[place]
                column_Q = _columns(plan)
                fields["outcome"][row, :, 0] = plan.leading_outcome
                fields["outcome"][row, plan.step_Q, column_Q] = plan.outcome_Q
                fields["offset"][row, plan.step_Q, column_Q] = plan.offset_Q
                fields["slot"][row] = where.slot
                fields["begin"][row] = self._map.begin(where.slot)
                fields["length"][row] = where.length
                fields["time"][row] = request.request_time
                fields["previous"][row] = request.last_event_time
                fields["surface"][row] = request.surface
            yield call, chosen


class _Generate:
    def __init__(self, parts: Parts, storage: DeviceStorage) -> None:
        self._map = storage.map
        self._hidden_RC = storage.hidden_RC
        self._tokens = parts.compiled(parts.model.tokenizer.packed)
        self._head = parts.compiled(parts.model.retrieval_head)
        self._slotted = parts.slotted(storage)

    def __call__(self, fields: Mapping[str, Tensor]) -> Tensor:
        """Return query embeddings [B, S, M, E] in float32."""
        hidden_BC = self._hidden_RC[fields["slot"]]
        made = [self._queries_of(hidden_BC, fields, 0)]
        for step in range(1, fields["outcome"].size(1)):
            hidden_BC = self._feed_back(made[-1][:, 0], fields, step - 1)
            made.append(self._queries_of(hidden_BC, fields, step))
        return torch.stack(made, dim=1)

    def _queries_of(self, hidden_BC: Tensor, fields: Mapping[str, Tensor], step: int) -> Tensor:
        """The queries [B, M, E] of one step."""
        outcome_BM = fields["outcome"][:, step]
        hidden_BMC = hidden_BC.float()[:, None].expand(-1, outcome_BM.size(1), -1)
        time_BM, surface_BM = (fields[name][:, None].expand_as(outcome_BM) for name in ("time", "surface"))
        queries: Tensor = self._head(hidden_BMC, time_BM, surface_BM, outcome_BM, fields["offset"][:, step])
        return queries

    def _feed_back(self, query_BE: Tensor, fields: Mapping[str, Tensor], step: int) -> Tensor:
        """Hidden states [B, C] after a query embedding as the next event, its action masked."""
        length_B, time_B = fields["length"], fields["time"]
        token_BC = self._tokens(
            query_BE,
            torch.zeros_like(length_B),
            torch.ones_like(length_B, dtype=torch.bool),
            time_B,
            fields["previous"] if step == 0 else time_B,
            fields["surface"],
            length_B + step,
        )
        row_B = torch.arange(len(length_B), device=length_B.device)
        scratch_B = self._map.scratch(0) + BLOCK * row_B
        step_B = torch.full_like(length_B, step)
        return self._slotted.generated(token_BC[:, None], fields["begin"], length_B, scratch_B, step_B)


def _fields(where: PositionMap, queries: int, bucket: Bucket) -> dict[str, Field]:
    batch, shape = (bucket.batch,), (bucket.batch, bucket.size, queries)
    return {
        "outcome": Field(shape),
        "offset": Field(shape),
        "slot": Field(batch, blank=where.rows - 1),
        "begin": Field(batch, blank=where.null_block),
        "length": Field(batch, blank=1),
        "time": Field(batch),
        "previous": Field(batch),
        "surface": Field(batch),
    }


def _columns(plan: QueryPlan) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Each query's place among those of its step; the first is left to the one that is fed back."""
    first_Q = np.searchsorted(plan.step_Q, plan.step_Q)
    column_Q: np.ndarray[tuple[int], np.dtype[np.int64]] = np.arange(len(plan.step_Q)) - first_Q + 1
    return column_Q
