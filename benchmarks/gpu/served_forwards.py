"""The very functions that the nodes launch, over slots that hold every set's histories."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu.inputs import Batch
from benchmarks.gpu.shape import Shape
from ensemble.executors.cuda.calls import Launches
from ensemble.executors.cuda.encoder import SlotEncoder
from ensemble.executors.cuda.generator import SlotGenerator
from ensemble.executors.cuda.item_table import ItemTable
from ensemble.executors.cuda.parts import Parts
from ensemble.executors.cuda.scorer import CandidateScorer
from ensemble.executors.cuda.static_call import StaticCall
from ensemble.executors.engine import ScoringRow
from ensemble.executors.generation import Asked
from ensemble.kv.cuda.device_memory import DeviceAllocator
from ensemble.kv.cuda.device_storage import DeviceStorage
from ensemble.kv.prefill import CachedSequence, Prefill
from ensemble.kv.slot_storage import SlotLayout
from unipinrec.models.common.slotted import Compile
from unipinrec.models.unified.queries import plan_queries
from unipinrec.models.unified.served import ServedModel


class FilledSlots:
    """A storage whose slot `set x batch + row` holds that row's history, and functions over it."""

    def __init__(
        self,
        model: ServedModel,
        items: ItemTable,
        shape: Shape,
        batches: Sequence[Batch],
        allocator: DeviceAllocator,
        compiled: Compile,
    ) -> None:
        """Fills every slot, without graphs."""
        dtype = model.trunk.norm.weight.dtype
        layout = SlotLayout.of_model(
            model.config, shape.slots, "bfloat16" if dtype == torch.bfloat16 else "float32"
        )
        self.storage = DeviceStorage.private(layout, shape.batch, allocator)
        self._model = model
        self._items = items
        self._shape = shape
        self._batches = batches
        self._compiled = compiled
        self._encoder = SlotEncoder(self._parts(items, capture=False), self.storage)
        for place in range(len(batches)):
            self._encoder(self.continuations(place, cached=0))
        self.storage.synchronize()

    def slots(self, place: int) -> list[int]:
        """Those of one set."""
        first = place * self._shape.batch
        return list(range(first, first + self._shape.batch))

    def continuations(self, place: int, cached: int) -> list[Prefill]:
        """What fills the slots of one set again from position `cached` on."""
        histories = self._batches[place].histories
        return [Prefill(one, cached, slot) for one, slot in zip(histories, self.slots(place), strict=True)]

    def scorer(self, *, capture: bool, items: ItemTable | None = None) -> "StagedScorer":
        """Ranking; with another item table than that of the histories where one is given."""
        parts = self._parts(items or self._items, capture=capture)
        return StagedScorer(CandidateScorer(parts, self.storage), self, self._batches)

    def encoder(self, *, capture: bool) -> SlotEncoder:
        """Encoding."""
        return SlotEncoder(self._parts(self._items, capture=capture), self.storage)

    def generator(self, *, capture: bool) -> "StagedGenerator":
        """Generation behind the histories."""
        parts = self._parts(self._items, capture=capture)
        return StagedGenerator(
            SlotGenerator(parts, self.storage, self._shape.steps), self, self._batches, self._shape
        )

    def places(self, place: int) -> list[CachedSequence]:
        """Of the histories of one set."""
        return [CachedSequence(slot, self._shape.positions) for slot in self.slots(place)]

    def _parts(self, items: ItemTable, *, capture: bool) -> Parts:
        device = self.storage.values_L2HPD.device
        return Parts(
            device=device,
            model=self._model,
            items=items,
            launches=Launches.on(device, capture=capture),
            compiled=self._compiled,
            batches=(self._shape.batch,),
        )


class StagedScorer:
    """Ranking of one set after the other."""

    def __init__(self, scorer: CandidateScorer, filled: FilledSlots, batches: Sequence[Batch]) -> None:
        self._scorer = scorer
        self._filled = filled
        self._batches = batches

    def call(self, place: int) -> StaticCall:
        """Filled with a set's candidates; a launch copies its integers to the device and ranks them."""
        ((call, _),) = self._scorer.stage(self.rows(place))
        return call

    def rows(self, place: int) -> list[ScoringRow]:
        """What the ranking node would ask for."""
        batch, storage = self._batches[place], self._filled.storage
        places = self._filled.places(place)
        return [
            ScoringRow(storage, where, batch.candidate_BK[row], int(time), int(surface))
            for row, (where, time, surface) in enumerate(
                zip(places, batch.request_time_B, batch.surface_B, strict=True)
            )
        ]

    def probabilities(self, place: int) -> Tensor:
        """Those of one set, [B, K, A], in host memory."""
        call = self.call(place)
        call.launch()
        return torch.from_numpy(call.result().copy())


class StagedGenerator:
    """Generation for one set after the other, with nothing asked for in particular."""

    def __init__(
        self, generator: SlotGenerator, filled: FilledSlots, batches: Sequence[Batch], shape: Shape
    ) -> None:
        self._generator = generator
        self._filled = filled
        self._batches = batches
        self._shape = shape

    def call(self, place: int) -> StaticCall:
        """Filled with a set's requests."""
        batch, config = self._batches[place], self._shape.model
        weight_A = np.zeros(config.num_actions, np.float32)
        plan = plan_queries(config.max_candidates, weight_A, self._shape.steps, len(config.time_offsets_s))
        asked = [
            Asked(
                request_time=int(batch.request_time_B[row]),
                surface=int(batch.surface_B[row]),
                last_event_time=int(history.timestamp_N[-1]),
                num_results=self._shape.candidates,
                outcome_weight_A=weight_A,
            )
            for row, history in enumerate(batch.histories)
        ]
        ((call, _),) = self._generator.stage([plan] * len(asked), asked, self._filled.places(place))
        return call
