"""Histories into slots of device memory, each padded to the smallest shape that holds its new events.

Shapes: B rows, N new positions of a row, C hidden width.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from ensemble.executors.cuda.calls import Bucket, history_sizes
from ensemble.executors.cuda.parts import Parts
from ensemble.executors.cuda.static_call import Field, StaticCall
from ensemble.executors.engine import EVENT_FIELDS, event_columns
from ensemble.kv.cuda.device_storage import DeviceStorage, PositionMap
from ensemble.kv.prefill import Prefill


class SlotEncoder:
    """Fills slots of one storage: keys, values, and the hidden state after the last event."""

    def __init__(self, parts: Parts, storage: DeviceStorage) -> None:
        self._map = storage.map
        self.padding = 0
        sizes = history_sizes(parts.model.config.max_positions)
        self._calls = parts.calls(_Encode(parts, storage), sizes, partial(_fields, storage.map))

    def __call__(self, histories: Sequence[Prefill]) -> None:
        """Launch what fills all slots; nothing waits until it is done."""
        for call in self.stage(histories):
            call.launch()

    def stage(self, histories: Sequence[Prefill]) -> Iterator[StaticCall]:
        """Yield calls that are filled and can be launched."""
        counts = [len(prefill.history) + 1 - prefill.cached for prefill in histories]
        for call, bucket, places in self._calls.split(counts):
            fields = call.blank()
            for row, place in enumerate(places):
                prefill, count = histories[place], counts[place]
                columns = event_columns(prefill.history, prefill.cached)
                for name, column in zip(EVENT_FIELDS, columns, strict=True):
                    fields[name][row, :count] = column
                fields["begin"][row] = self._map.begin(prefill.slot)
                fields["cached"][row] = prefill.cached
                fields["count"][row] = count
                fields["slot"][row] = prefill.slot
                self.padding += bucket.size - count
            self.padding += (bucket.batch - len(places)) * bucket.size
            yield call


class _Encode:
    def __init__(self, parts: Parts, storage: DeviceStorage) -> None:
        self._items = parts.items
        self._tokens = parts.compiled(parts.model.tokenizer.packed)
        self._hidden_RC = storage.hidden_RC
        self._slotted = parts.slotted(storage)

    def __call__(self, fields: Mapping[str, Tensor]) -> Tensor:
        """Return hidden states [B, C], which also stand beside the slots."""
        item_BN, begin_B, cached_B = fields["item"], fields["begin"], fields["cached"]
        batch, new = item_BN.shape
        position_BN = cached_B[:, None] + torch.arange(new, device=item_BN.device)
        token_XC = self._tokens(
            self._items(item_BN.flatten()),
            fields["actions"].flatten(),
            torch.zeros(batch * new, dtype=torch.bool, device=item_BN.device),
            fields["timestamp"].flatten(),
            fields["previous"].flatten(),
            fields["surface"].flatten(),
            position_BN.flatten(),
        )
        token_BNC = token_XC.view(batch, new, -1)
        hidden_BC = self._slotted.continued(token_BNC, begin_B, cached_B, fields["count"]).float()
        self._hidden_RC.index_copy_(0, fields["slot"], hidden_BC)
        return hidden_BC


def _fields(where: PositionMap, bucket: Bucket) -> dict[str, Field]:
    batch, shape = (bucket.batch,), (bucket.batch, bucket.size)
    fields = {name: Field(shape) for name in EVENT_FIELDS}
    fields["begin"] = Field(batch, blank=where.null_block)
    fields["cached"] = Field(batch)
    fields["count"] = Field(batch, blank=1)
    fields["slot"] = Field(batch, blank=where.rows - 1)
    return fields
