"""What all functions of one process on a device share."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from ensemble.executors.cuda.calls import Bucket, Buckets, Calls, Launches
from ensemble.executors.cuda.item_table import ItemTable
from ensemble.executors.cuda.static_call import Field, Function, Packing, StaticCall
from ensemble.kv.cuda.device_storage import DeviceStorage
from unipinrec.models.common.slotted import Compile, SlottedTrunk
from unipinrec.models.unified.served import ServedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Model and item vectors on the device, and how functions are made fast there."""

    device: torch.device
    model: ServedModel
    """In the precision that it serves in."""
    items: ItemTable
    launches: Launches
    compiled: Compile
    batches: Sequence[int]

    def slotted(self, storage: DeviceStorage) -> SlottedTrunk:
        """Return the model's trunk over the slots of a storage."""
        return SlottedTrunk(self.model.trunk, storage.values_L2HPD, storage.map.slot_size, self.compiled)

    def calls(
        self, function: Function, sizes: Sequence[int], fields: Callable[[Bucket], Mapping[str, Field]]
    ) -> Calls[int, Bucket]:
        """Return the calls of a function for rows of these sizes; `fields` are those of a shape."""

        def make(bucket: Bucket) -> StaticCall:
            return StaticCall(function, Packing(fields(bucket)), self.device)

        return Calls(Buckets(sizes, self.batches), make, self.launches)
