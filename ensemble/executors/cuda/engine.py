"""The engine of a GPU: encodes, generates and scores over slots in its memory."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar
from weakref import WeakKeyDictionary

import torch
from prometheus_client.metrics_core import GaugeMetricFamily, Metric

from ensemble.arrays import Floats
from ensemble.executors.cuda.calls import BATCHES, Launches
from ensemble.executors.cuda.encoder import SlotEncoder
from ensemble.executors.cuda.generator import SlotGenerator
from ensemble.executors.cuda.item_table import ItemPrecision, ItemTable
from ensemble.executors.cuda.parts import Parts
from ensemble.executors.cuda.scorer import CandidateScorer
from ensemble.executors.engine import ScoringRow, Use
from ensemble.executors.generation import Asked, Queries, QueryPlanner
from ensemble.kv.cuda.device_memory import DeviceAllocator
from ensemble.kv.cuda.device_storage import DeviceStorage
from ensemble.kv.prefill import CachedSequence, Prefill
from ensemble.kv.slot_storage import SlotLayout
from ensemble.loaded_bundle import LoadedBundle
from unipinrec import bundle
from unipinrec.models.common.slotted import Compile
from unipinrec.models.unified.precision import Lowered, lower_precision
from unipinrec.models.unified.served import ServedModel

ComputePrecision = Literal["float32"] | Lowered
Made = TypeVar("Made")


compile_each_shape: Compile = partial(torch.compile, dynamic=False)
"""One program for many shapes would be slower, and which shapes share one would depend on their order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuOptions:
    """How a GPU computes."""

    precision: ComputePrecision = "bfloat16"
    item_precision: ItemPrecision = "float32"
    batches: Sequence[int] = BATCHES
    """Rows that batches are padded to; the last is the most that a batch has."""
    compiled: Compile = compile_each_shape
    capture: bool = True
    """Whether launches replay CUDA graphs."""


class GpuEngine:
    """Static shapes over slots in device memory, compiled and captured for every storage."""

    pool_wait_s = 60.0

    def __init__(self, loaded: LoadedBundle, allocator: DeviceAllocator, options: GpuOptions) -> None:
        device, config = allocator.device, loaded.manifest.model
        model = ServedModel.load(loaded.model_folder / bundle.WEIGHTS, config).to(device)
        if options.precision != "float32":
            lower_precision(model, options.precision)
        self._precision: Literal["float32", "bfloat16"] = (
            "float32" if options.precision == "float32" else "bfloat16"
        )
        self._allocator = allocator
        self._config = config
        self._planner = QueryPlanner(loaded.manifest)
        self._parts = Parts(
            device=device,
            model=model.requires_grad_(False),
            items=ItemTable(loaded.item_vectors(), options.item_precision, device),
            launches=Launches.on(device, capture=options.capture),
            compiled=options.compiled,
            batches=options.batches,
        )
        self._functions: WeakKeyDictionary[DeviceStorage, dict[Use, Any]] = WeakKeyDictionary()
        self.encode = StoragePrefiller(self._encoder)

    def create(self, base: Path, layout: SlotLayout) -> DeviceStorage:
        """Return zeroed device memory for a pool, whose descriptor lies beside `base`."""
        return DeviceStorage.create(base.parent, layout, self._parts.batches[-1], self._allocator)

    def open(self, folder: Path, fields: Mapping[str, Any]) -> DeviceStorage:
        """Return the device memory that another process described in `fields`."""
        del folder
        return DeviceStorage.open(fields, self._allocator)

    def close(self, storage: DeviceStorage) -> None:
        """Forget a storage; its memory is given back with the last function that works on it."""
        self._functions.pop(storage, None)

    def layout(self, slots: int) -> SlotLayout:
        """Return the layout of a pool of so many slots, which hold what the trunk computes in."""
        return SlotLayout.of_model(self._config, slots, self._precision)

    def private(self) -> DeviceStorage:
        """Return a storage of spare slots alone, in device memory."""
        return DeviceStorage.private(self.layout(0), self._parts.batches[-1], self._allocator)

    @torch.inference_mode()
    def prepare(self, storage: DeviceStorage, uses: Sequence[Use]) -> None:
        """Compile and capture what these uses of a storage need."""
        for use in uses:
            {"encode": self._encoder, "generate": self._generator, "score": self._scorer}[use](storage)

    def generate(
        self, storage: DeviceStorage, asked: Sequence[Asked], places: Sequence[CachedSequence]
    ) -> list[Queries]:
        """Return the query embeddings of every request behind its encoded history, similar ones merged."""
        plans = [self._planner.plan(request) for request in asked]
        made = self._generator(storage)(plans, asked, places)
        return [self._planner.finish(plan, vector_QE) for plan, vector_QE in zip(plans, made, strict=True)]

    def score(self, rows: Sequence[ScoringRow]) -> list[Floats]:
        """Return action probabilities [K, A] of every row, by a launch for each storage among the rows."""
        by_storage: dict[int, list[int]] = {}
        for place, row in enumerate(rows):
            by_storage.setdefault(id(row.storage), []).append(place)
        scored: dict[int, Floats] = {}
        for places in by_storage.values():
            scorer = self._scorer(rows[places[0]].storage)
            scored |= zip(places, scorer([rows[place] for place in places]), strict=True)
        return [scored[place] for place in range(len(rows))]

    def collect(self) -> Iterable[Metric]:
        """Yield what launches, shapes and graphs have been counted."""
        yield from self._parts.launches.collect()
        yield GaugeMetricFamily(
            "unipinrec_item_table_bytes", "Device memory of the item vectors", self._parts.items.bytes
        )

    def _encoder(self, storage: DeviceStorage) -> SlotEncoder:
        return self._once("encode", storage, lambda: SlotEncoder(self._parts, storage))

    def _generator(self, storage: DeviceStorage) -> SlotGenerator:
        steps = self._planner.steps
        return self._once("generate", storage, lambda: SlotGenerator(self._parts, storage, steps))

    def _scorer(self, storage: DeviceStorage) -> CandidateScorer:
        return self._once("score", storage, lambda: CandidateScorer(self._parts, storage))

    def _once(self, use: Use, storage: DeviceStorage, make: Callable[[], Made]) -> Made:
        """A function of a storage, which ends with it: a run may make one behind the storage's `close`."""
        functions = self._functions.setdefault(storage, {})
        if use not in functions:
            functions[use] = make()
        made: Made = functions[use]
        return made


class StoragePrefiller:
    """Fills slots of any storage; each storage has an encoder of its own."""

    def __init__(self, encoder: Callable[[DeviceStorage], SlotEncoder]) -> None:
        self._encoder = encoder
        self.padding = 0

    def __call__(self, storage: DeviceStorage, histories: Sequence[Prefill]) -> None:
        """Put keys, values and the last hidden state of every history into its slot."""
        encoder = self._encoder(storage)
        before = encoder.padding
        encoder(histories)
        self.padding += encoder.padding - before
