"""The second ranker of a GPU: weights, item vectors and search vectors in its memory, everything from search
to probabilities by one launch for a batch.

Shapes: R requests of a shape and the two that pad it, R1 = R + 1 offsets, N events, M impressions, C and K
candidates of all requests and of one, A actions.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from torch import Tensor

from ensemble.arrays import Floats, Int64s
from ensemble.executors.cuda.calls import Calls, Launches
from ensemble.executors.cuda.ranker_shapes import Asked, RankingShape, RankingShapes
from ensemble.executors.cuda.static_call import Field, Packing, StaticCall
from unipinrec.models.common.offline import OfflineRequest
from unipinrec.models.transact.batch import PackedEvents, RequestBatch
from unipinrec.models.transact.fixed import Encode, FixedTransAct, FixedTransActV2
from unipinrec.models.transact.module import TransAct, TransActV2
from unipinrec.models.transact.nearest import Search
from unipinrec.models.transact.offline import OfflineSecondRanker

PADDING_REQUESTS = 2
"""Behind those of a batch: one of the rows that are left over, and one of the candidates."""
COLUMNS = ("item_row_N", "actions_N", "surface_N", "timestamp_N")


class Kernels(NamedTuple):
    """What TransAct V2 computes with besides PyTorch."""

    search: Search
    encode: Encode


class GpuSecondRanker:
    """Batches of a few shapes, captured before a request needs them."""

    def __init__(
        self,
        model: TransAct | TransActV2,
        device: torch.device,
        kernels: Kernels | None,
        *,
        shapes: RankingShapes,
        capture: bool = True,
    ) -> None:
        """Move the model to the device, and warm every shape up there. TransAct needs no kernels.

        Raises `TypeError` where TransAct V2 has none.
        """
        self._config = model.config
        self._ranker = OfflineSecondRanker(model.to(device).requires_grad_(False))
        self._shapes = shapes
        self._launches = Launches.on(device, capture=capture)
        self._table_bytes = sum(buffer.nbytes for buffer in model.embedder.buffers())
        rank = FieldsRanker(model, kernels)

        def make(shape: RankingShape) -> StaticCall:
            return StaticCall(rank, Packing(fields_of(shape, model)), device)

        with torch.inference_mode():
            self._calls = Calls(shapes, make, self._launches)

    @torch.inference_mode()
    def action_probabilities(
        self, requests: Sequence[OfflineRequest], candidates: Sequence[Int64s]
    ) -> list[Floats]:
        """Return probabilities [K, A] of each request's candidate rows [K], once the device is done."""
        pieces = self._shapes.pieces([len(row_K) for row_K in candidates])
        asked = [Asked(self._rows_of(requests[place]), part.stop - part.start) for place, part in pieces]
        parts: list[list[Floats]] = [[] for _ in requests]
        for call, _, group in self._calls.split(asked):
            chosen = [pieces[number] for number in group]
            self._fill(
                call.blank(),
                [requests[place] for place, _ in chosen],
                [candidates[place][part] for place, part in chosen],
            )
            call.launch()
            probability_CA, begin = call.result(), 0
            for place, part in chosen:
                end = begin + part.stop - part.start
                parts[place].append(probability_CA[begin:end].copy())
                begin = end
        none_KA = np.empty((0, self._config.num_actions), np.float32)
        return [np.concatenate([none_KA, *found]) for found in parts]

    def collect(self) -> Iterable[Metric]:
        """Yield what launches, shapes and graphs have been counted."""
        yield from self._launches.collect()
        yield GaugeMetricFamily(
            "unipinrec_item_table_bytes", "Device memory of the item vectors", self._table_bytes
        )

    def _rows_of(self, request: OfflineRequest) -> int:
        """As many events, or impressions if they are more, as the model may read of a request."""
        acted = np.count_nonzero(request.history.actions_N)
        shown = len(request.history) - acted if request.impressions is None else len(request.impressions)
        return max(min(acted, self._config.max_events), min(shown, self._config.max_impressions))

    def _fill(
        self,
        fields: Mapping[str, NDArray[np.int64]],
        requests: Sequence[OfflineRequest],
        candidates: Sequence[Int64s],
    ) -> None:
        batch = self._ranker.request_batch(requests, candidates)
        for kind, rows in (("event", batch.events), ("impression", batch.impressions)):
            for name in COLUMNS:
                fields[f"{kind}_{name}"][: len(rows.item_row_N)] = getattr(rows, name)
            _fill_offsets(fields[f"{kind}_offset"], rows.offset_R1)
        fields["candidate"][: len(batch.candidate_item_C)] = batch.candidate_item_C
        _fill_offsets(fields["candidate_offset"], batch.candidate_offset_R1)
        asked = slice(len(requests))
        fields["time"][asked] = batch.request_time_R
        fields["surface"][asked] = batch.request_surface_R
        # Numbers cross among integers, bit by bit.
        fields["user_rate"].view(np.float64)[asked] = batch.user_rate_RA
        fields["user_shown"].view(np.float64)[asked] = batch.user_shown_R


class FieldsRanker:
    """What a batch's fields say, ranked."""

    def __init__(self, model: TransAct | TransActV2, kernels: Kernels | None) -> None:
        self._rates = model.heads.rates
        if isinstance(model, TransAct):
            self._forward: FixedTransAct | FixedTransActV2 = FixedTransAct(model)
        elif kernels is None:
            raise TypeError("kernels is None; allowed for TransAct alone")
        else:
            self._forward = FixedTransActV2(model, kernels.search, kernels.encode)

    def __call__(self, fields: Mapping[str, Tensor]) -> Tensor:
        """Return probabilities [C, A]; those behind the last candidate asked for mean nothing."""
        item_C, rates = fields["candidate"], self._rates
        offset_R1 = fields["candidate_offset"]
        # Nobody asks for the last candidates, and what has rows left over asks for none.
        offset_R1 = _followed(torch.cat([offset_R1, offset_R1[-1:]]), 1, len(item_C))
        requests = RequestBatch(
            events=_rows(fields, "event"),
            impressions=_rows(fields, "impression"),
            request_time_R=fields["time"],
            request_surface_R=fields["surface"],
            user_rate_RA=fields["user_rate"].view(torch.float64).float(),
            user_shown_R=fields["user_shown"].view(torch.float64).float(),
            candidate_item_C=item_C,
            candidate_offset_R1=offset_R1,
            item_rate_CA=rates.item_rate_VA[item_C],
            item_shown_C=rates.item_shown_V[item_C],
            attribute_rate_CA=rates.attribute_rate_VA[item_C],
            attribute_shown_C=rates.attribute_shown_V[item_C],
        )
        return self._forward(requests)


def _rows(fields: Mapping[str, Tensor], kind: str) -> PackedEvents:
    columns = {name: fields[f"{kind}_{name}"] for name in COLUMNS}
    offset_R1 = _followed(fields[f"{kind}_offset"], PADDING_REQUESTS, len(columns["item_row_N"]))
    return PackedEvents(**columns, offset_R1=offset_R1)


def _followed(offset_R1: Tensor, times: int, end: int) -> Tensor:
    return torch.nn.functional.pad(offset_R1, (0, times), value=end)


def _fill_offsets(field_R1: NDArray[np.int64], offset_R1: Tensor) -> None:
    """Requests behind the last one have nothing."""
    field_R1[: len(offset_R1)] = offset_R1
    field_R1[len(offset_R1) :] = offset_R1[-1]


def fields_of(shape: RankingShape, model: TransAct | TransActV2) -> dict[str, Field]:
    """Return what a batch of a shape brings to the device."""
    config, requests = model.config, (shape.batch + PADDING_REQUESTS,)
    fields = {
        "candidate": Field((shape.candidates,)),
        "time": Field(requests),
        "surface": Field(requests),
        "user_rate": Field((*requests, config.num_actions)),
        "user_shown": Field(requests),
    }
    for kind, most in (("event", config.max_events), ("impression", config.max_impressions)):
        # One more than none, which no kernel is made for.
        rows = max(1, min(shape.rows, shape.batch * most))
        fields |= {f"{kind}_{name}": Field((rows,)) for name in COLUMNS}
    for kind in ("event", "impression", "candidate"):
        fields[f"{kind}_offset"] = Field((shape.batch + 1,))
    return fields
