"""Candidates over slots of device memory, their own process's or another's.

Shapes: B rows, K candidates, A actions.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from ensemble.arrays import Floats
from ensemble.executors.cuda.calls import Bucket, candidate_sizes
from ensemble.executors.cuda.parts import Parts
from ensemble.executors.cuda.static_call import Field, StaticCall
from ensemble.executors.engine import ScoringRow
from ensemble.kv.cuda.device_storage import DeviceStorage, PositionMap


class CandidateScorer:
    """Reads slots of one storage in place, and writes nothing into it."""

    def __init__(self, parts: Parts, storage: DeviceStorage) -> None:
        self._map = storage.map
        sizes = candidate_sizes(parts.model.config.max_candidates)
        self._calls = parts.calls(_Score(parts, storage), sizes, partial(_fields, storage.map))

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
            yield call, places


class _Score:
    def __init__(self, parts: Parts, storage: DeviceStorage) -> None:
        self._items = parts.items
        self._tokens = parts.compiled(parts.model.tokenizer.candidates)
        self._head = parts.compiled(parts.model.ranking_head)
        self._slotted = parts.slotted(storage)

    def __call__(self, fields: Mapping[str, Tensor]) -> Tensor:
        """Return probabilities [B, K, A] in float32."""
        token_BKC = self._tokens(self._items(fields["item"]), fields["time"], fields["surface"])
        hidden_BKC = self._slotted.candidates(token_BKC, fields["begin"], fields["length"])
        return torch.sigmoid(self._head(hidden_BKC).float())


def _fields(where: PositionMap, bucket: Bucket) -> dict[str, Field]:
    batch = (bucket.batch,)
    return {
        "item": Field((bucket.batch, bucket.size)),
        "begin": Field(batch, blank=where.null_block),
        "length": Field(batch, blank=1),
        "time": Field(batch),
        "surface": Field(batch),
    }
