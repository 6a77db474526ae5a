"""UniPinRec's Table 2 on this card, and where else the time of a request goes.

Shapes: B rows, K candidates, A actions.
"""

import copy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from benchmarks.gpu.card import measure_rates, time_launch
from benchmarks.gpu.costs import Cost, Costs, weight_bytes
from benchmarks.gpu.forwards import Attention, Baseline, Mode, eager
from benchmarks.gpu.inputs import filled_storage, random_batch, random_model, random_vectors
from benchmarks.gpu.shape import Shape
from benchmarks.random_bundle import UTILITY
from ensemble.executors.cuda.calls import Launches
from ensemble.executors.cuda.encoder import SlotEncoder
from ensemble.executors.cuda.generator import SlotGenerator
from ensemble.executors.cuda.item_table import ItemPrecision, ItemTable
from ensemble.executors.cuda.parts import Parts
from ensemble.executors.cuda.scorer import CandidateScorer
from ensemble.executors.cuda.static_call import StaticCall
from ensemble.kv.cuda.device_memory import DeviceAllocator
from ensemble.kv.cuda.device_storage import DeviceStorage
from unipinrec.models.common.slotted import Compile
from unipinrec.models.unified.precision import Lowered, lower_precision
from unipinrec.models.unified.queries import plan_queries
from unipinrec.models.unified.served import ServedModel

Precision = Literal["float32"] | Lowered
Launched = StaticCall | Callable[[], Tensor]
"""A call as the nodes make it, or a function that returns probabilities [B, K, A]."""

Measured = dict[str, Any]
MODES: tuple[Mode, ...] = ("regional", "whole")
ITEMS: tuple[ItemPrecision, ...] = ("float32", "int8")
BY_KERNEL = "kernel by kernel"
TOP = 10
LEAST_PROBABILITY = 1e-7
"""Logits are read off float32 probabilities, which end here."""


class TableBench:
    """One run of all lines over the same batch and weights."""

    def __init__(
        self, shape: Shape, allocator: DeviceAllocator, compiled: Compile, tell: Callable[[str], None]
    ) -> None:
        """`compiled` is how the server compiles; `tell` is told what runs next."""
        self._shape = shape
        self._allocator = allocator
        self._compiled = compiled
        self._tell = tell
        self._device = allocator.device
        self._sizes = (shape.positions, shape.candidates)
        self._batch = random_batch(shape.model, shape.batch, shape.positions - 1, shape.candidates)
        self._fields = self._batch.fields(self._device)
        self._items = {items: ItemTable(random_vectors(shape.model), items, self._device) for items in ITEMS}
        self._models: dict[Precision, ServedModel] = {"float32": random_model(shape.model, self._device)}
        self._storages: dict[Precision, DeviceStorage] = {}
        self._expected = torch.empty(0)
        self._rates: dict[str, float] = {}

    @torch.inference_mode()
    def run(self) -> dict[str, Any]:
        """Return the `shape`, the card's own `rates` and the `forwards` of a batch.

        Each has the ms of a launch, its FLOPs and bytes with their shares of the card's own rates, the bytes
        at its peak, and `working_bytes` beyond what lay there before. One that ranks has its distance from an
        eager prefill in float32 without TF32, and its speed-up over the faster of the first two. One that
        fails has the reason instead, and keeps no other from running.
        """
        self._tell("the card's own rates, and a float32 reference")
        self._rates = measure_rates(self._device)
        exact = Baseline(replace(self._parts("float32"), compiled=eager), self._sizes, "whole")
        self._expected = exact.prefill("sdpa")(self._fields).cpu()
        first = [self._prefill("sdpa", mode) for mode in MODES]
        times = [line.get("median_ms", float("inf")) for line in first]
        mode = MODES[times.index(min(times))]
        forwards = [*first, self._prefill("flex", mode), *self._served(mode)]
        for line in forwards:
            if "largest" in line and "median_ms" in line:
                line["speed_up"] = min(times) / line["median_ms"]
        return {"shape": asdict(self._shape), "rates": self._rates, "forwards": forwards}

    def _prefill(self, attention: Attention, mode: Mode) -> Measured:
        def make(parts: Parts, _storage: DeviceStorage) -> Callable[[], Launched]:
            forward = Baseline(parts, self._sizes, mode).prefill(attention)
            return lambda: partial(forward, self._fields)

        return self._measure(f"prefill_{attention}", make, Costs.prefill, mode=f"{mode} compile")

    def _served(self, mode: Mode) -> Iterator[Measured]:
        """Candidates over copied keys and values, then everything that the nodes launch."""
        whole, new, steps = self._shape.positions, self._shape.continued, self._shape.steps

        def copied(parts: Parts, storage: DeviceStorage) -> Callable[[], Launched]:
            forward = Baseline(parts, self._sizes, mode).copied_decode(storage, self._shape.batch)
            return lambda: partial(forward, self._fields)

        measure, decode = self._measure, Costs.decode
        yield measure("decode_sdpa", copied, partial(decode, copied=True), mode=f"{mode} compile")
        yield measure("decode_flex", self._scored, decode, mode=BY_KERNEL)
        yield measure("decode_flex_graph", self._scored, decode)
        yield measure("decode_flex_graph_int8_items", self._scored, decode, items="int8")
        for name, count in (("encode_cold", whole), ("encode_warm", new)):
            encode = partial(self._encoded, count)
            yield measure(name, encode, partial(Costs.encode, new=count), ranks=False)
        yield measure("generate", self._generated, partial(Costs.generate, steps=steps), ranks=False)
        yield measure("decode_flex_graph_float8", self._scored, decode, precision="float8")

    def _measure(
        self,
        name: str,
        make: Callable[[Parts, DeviceStorage], Callable[[], Launched]],
        cost: Callable[[Costs], Cost],
        *,
        precision: Precision = "bfloat16",
        items: ItemPrecision = "float32",
        mode: str = "captured",
        ranks: bool = True,
    ) -> Measured:
        """A line. `make` compiles and captures, and what it returns makes the batch ready to be launched."""
        self._tell(f"{name}, {mode}")
        line: Measured = {"name": name, "precision": precision, "mode": mode}
        try:
            storage, device = self._storage(precision), self._device
            before = _forget_peak(device)
            ready = make(self._parts(precision, items, capture=mode != BY_KERNEL), storage)
            launched = ready()
            found = _result(launched)
            if ranks:
                line |= parity(found, self._expected)
            if device.type == "cuda":
                # Before the clock, which holds memory of its own.
                line["peak_bytes"] = torch.cuda.max_memory_allocated(device)
                line["working_bytes"] = line["peak_bytes"] - before
            taken = time_launch(launched.launch if isinstance(launched, StaticCall) else launched, device)
        except (RuntimeError, ValueError) as error:
            # A card may lack what a line needs, as units for float8; the others still say something.
            return line | {"failure": f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"}
        model = self._model(precision)
        spent = cost(Costs(model, self._shape.batch, *self._sizes))
        line |= {"weight_bytes": weight_bytes(model)} | asdict(spent) | taken
        if taken:
            second = 1e3 / taken["median_ms"]
            product = self._rates["float8" if precision == "float8" else "bfloat16"]
            line["matrix_share"] = (spent.linear_flops + spent.attention_flops) * second / product
            line["copy_share"] = spent.bytes * second / self._rates["copy"]
        return line

    def _scored(self, parts: Parts, storage: DeviceStorage) -> Callable[[], Launched]:
        scorer = CandidateScorer(parts, storage)
        return lambda: _only(scorer.stage(self._batch.rows(storage)))[0]

    def _encoded(self, new: int, parts: Parts, storage: DeviceStorage) -> Callable[[], Launched]:
        encoder = SlotEncoder(parts, storage)
        return lambda: _only(encoder.stage(self._batch.prefills(self._shape.positions - new)))

    def _generated(self, parts: Parts, storage: DeviceStorage) -> Callable[[], Launched]:
        config, steps, asked = self._shape.model, self._shape.steps, self._batch.asked(self._shape.candidates)
        generator = SlotGenerator(parts, storage, steps)
        weight_A, offsets = asked[0].outcome_weight_A, len(config.time_offsets_s)
        plans = [plan_queries(config.max_candidates, weight_A, steps, offsets)] * len(asked)
        return lambda: _only(generator.stage(plans, asked, self._batch.sequences()))[0]

    def _model(self, precision: Precision) -> ServedModel:
        if precision not in self._models:
            model = copy.deepcopy(self._models["float32"])
            self._models[precision] = model if precision == "float32" else lower_precision(model, precision)
        return self._models[precision]

    def _parts(
        self, precision: Precision, items: ItemPrecision = "float32", *, capture: bool = False
    ) -> Parts:
        """What a function is made of; its graphs have memory of their own."""
        return Parts(
            device=self._device,
            model=self._model(precision),
            items=self._items[items],
            launches=Launches.on(self._device, capture=capture),
            compiled=self._compiled,
            batches=(self._shape.batch,),
        )

    def _storage(self, precision: Precision) -> DeviceStorage:
        if precision not in self._storages:
            # One pool at a time: the memory of a line is its own.
            self._storages.clear()
            made = filled_storage(self._batch, self._parts(precision), self._shape.slots, self._allocator)
            self._storages[precision] = made
        return self._storages[precision]


def parity(found_BKA: Tensor, expected_BKA: Tensor) -> dict[str, float]:
    """Return the `largest` and `mean` difference of probabilities of the same batch and of their logits, and
    `same_top`, the share of each row's ten best items by utility that are the same."""
    both = (found_BKA.double(), expected_BKA.double())
    logits = [torch.logit(some_BKA, eps=LEAST_PROBABILITY) for some_BKA in both]
    utility_A = torch.tensor(UTILITY, dtype=torch.float64)
    top = [(some_BKA @ utility_A).topk(min(TOP, some_BKA.size(1))).indices for some_BKA in both]
    difference, logit_difference = (both[0] - both[1]).abs(), (logits[0] - logits[1]).abs()
    return {
        "largest": difference.max().item(),
        "mean": difference.mean().item(),
        "largest_logit": logit_difference.max().item(),
        "mean_logit": logit_difference.mean().item(),
        "same_top": (top[0][:, :, None] == top[1][:, None]).any(-1).double().mean().item(),
    }


def _forget_peak(device: torch.device) -> int:
    """Begin to look for the peak of memory anew, and return the bytes that are allocated on a GPU."""
    if device.type != "cuda":
        return 0
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)


def _result(launched: Launched) -> Tensor:
    """What one launch computes, in host memory."""
    if not isinstance(launched, StaticCall):
        return launched().cpu()
    launched.launch()
    # Copied, since the next launch writes to the same place.
    return torch.from_numpy(launched.result().copy())


def _only(staged: Iterable[Any]) -> Any:
    """The one call that a whole batch of equal rows needs."""
    (call,) = staged
    return call
