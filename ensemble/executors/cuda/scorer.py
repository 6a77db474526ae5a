"""Candidates over slots of device memory, their own process's or another's.

Shapes: B rows, K candidates, N events, A actions, C hidden width.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ensemble.arrays import Floats
from ensemble.executors.cuda.calls import Bucket, candidate_sizes
from ensemble.executors.cuda.parts import Parts
from ensemble.executors.cuda.static_call import Field, StaticCall
from ensemble.executors.engine import ScoringRow
from ensemble.kv.cuda.device_storage import DeviceStorage, PositionMap
from unipinrec.models.unified.both_heads import BothHeads


class CandidateScorer:
    """Reads slots of one storage in place, and writes nothing into it."""

    def __init__(self, parts: Parts, storage: DeviceStorage) -> None:
        self._map = storage.map
        sizes = candidate_sizes(parts.model.config.max_candidates)
        config = parts.model.config
        fields = partial(_fields, storage.map, config.max_history, words_of(config.width))
        self._calls = parts.calls(_Score(parts, storage), sizes, fields)

    def __call__(self, rows: Sequence[ScoringRow]) -> list[Floats]:
        """Return the action probabilities [K, A] of every row, once the device is done."""
        scored: dict[int, Floats] = {}
        for call, places in self.stage(rows):
            call.launch()
            probability_BKA = call.result()
            for row, place in enumerate(places):
                scored[place] = probability_BKA[row, : len(rows[place].item_row_K)].copy()
        return [scored[place] for place in range(len(rows))]

    def stage(self, rows: Sequence[ScoringRow]) -> Iterator[tuple[StaticCall, list[int]]]:
        """Yield calls that are filled and can be launched, and the places of their rows."""
        for call, _, places in self._calls.split([max(1, len(row.item_row_K)) for row in rows]):
            fields = call.blank()
            for row, place in enumerate(places):
                asked = rows[place]
                fields["item"][row, : len(asked.item_row_K)] = asked.item_row_K
                fields["begin"][row] = self._map.begin(asked.place.slot)
                fields["length"][row] = asked.place.length
                fields["time"][row] = asked.request_time
                fields["surface"][row] = asked.surface
                fields["hidden"][row].view(np.float32)[: len(asked.hidden_C)] = asked.hidden_C
                events = len(asked.history)
                fields["events"][row] = events
                fields["event_item"][row, :events] = asked.history.item_row_N
                fields["event_actions"][row, :events] = asked.history.actions_N
                fields["event_time"][row, :events] = asked.history.timestamp_N
            yield call, places


class _Score:
    def __init__(self, parts: Parts, storage: DeviceStorage) -> None:
        model = parts.model
        self._items = parts.items
        self._width = model.config.width
        self._tokens = parts.compiled(model.tokenizer.candidates)
        self._affinity = parts.compiled(model.ranking_head.affinity.of_requests)
        self._heads = parts.compiled(BothHeads(model))
        self._slotted = parts.slotted(storage)

    def __call__(self, fields: Mapping[str, Tensor]) -> Tensor:
        """Return probabilities [B, K, A] in float32."""
        item_BK, time_B, surface_B = fields["item"], fields["time"], fields["surface"]
        candidate_BKE, event_BNE = self._items(item_BK), self._items(fields["event_item"])
        token_BKC = self._tokens(candidate_BKE, time_B[:, None], surface_B[:, None])
        hidden_BKC = self._slotted.candidates(token_BKC, fields["begin"], fields["length"])
        actions_BN, timestamp_BN = fields["event_actions"], fields["event_time"]
        padding_BN = torch.arange(event_BNE.size(1), device=time_B.device) >= fields["events"][:, None]
        affinity_BKF = self._affinity(candidate_BKE, time_B, event_BNE, actions_BN, timestamp_BN, padding_BN)
        hidden_BC = fields["hidden"].view(torch.float32)[:, : self._width]
        columns = (candidate_BKE, item_BK, time_B, surface_B, hidden_BC)
        probability_BKA: Tensor = self._heads(hidden_BKC, affinity_BKF, *columns)
        return probability_BKA.float()


def words_of(width: int) -> int:
    """Return how many integers of 64 bits hold so many floats."""
    return -(-width // 2)


def _fields(where: PositionMap, events: int, words: int, bucket: Bucket) -> dict[str, Field]:
    batch = (bucket.batch,)
    return {
        "item": Field((bucket.batch, bucket.size)),
        "begin": Field(batch, blank=where.null_block),
        "length": Field(batch, blank=1),
        "time": Field(batch),
        "surface": Field(batch),
        "hidden": Field((bucket.batch, words)),
        "events": Field(batch),
        "event_item": Field((bucket.batch, events)),
        "event_actions": Field((bucket.batch, events)),
        "event_time": Field((bucket.batch, events)),
    }
