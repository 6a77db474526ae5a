"""UniPinRec's Table 2 on this card, and where else the time of a request goes.

Shapes: B rows, K candidates, A actions.
"""

import copy
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from benchmarks.gpu.card import measure_rates, time_launch
from benchmarks.gpu.costs import Cost, Costs, weight_bytes
from benchmarks.gpu.forwards import Attention, Baseline, Mode
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

Staged = TypeVar("Staged")
PAPER_SPEED_UPS = {
    "prefill_sdpa": 1.0, "prefill_flex": 1.31, "decode_sdpa": 2.47, "decode_flex": 3.0,
    "decode_flex_graph_float8": 3.92,
}  # fmt: skip
"""UniPinRec Table 2: batch 8, n = 992, k = 656, 12 layers, on an NVIDIA L40S. It has no line for bfloat16
with a CUDA graph."""

TOP = 10
LEAST_PROBABILITY = 1e-7
"""Logits are read off float32 probabilities, which end here."""


@dataclass(frozen=True, slots=True)
class Line:
    """A forward to be measured."""

    name: str
    make: Callable[[], Callable[[], Launched]]
    """Compiles and captures; what it returns makes the batch ready to be launched."""
    cost: Callable[[Costs], Cost]
    precision: Precision = "bfloat16"
    mode: str = "as served, captured"
    ranks: bool = True
    """Whether its result is probabilities [B, K, A]."""


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
        self._items = self._item_table("float32")
        self._models: dict[Precision, ServedModel] = {"float32": random_model(shape.model, self._device)}
        self._storages: dict[Precision, DeviceStorage] = {}
        self._expected = torch.empty(0)
        self._rates: dict[str, float] = {}

    @torch.inference_mode()
    def run(self) -> dict[str, Any]:
        """Return the `shape`, the card's own `rates` and the measured `forwards`: those that rank, and where
        else a request's time goes.

        Each has the ms of a launch, its FLOPs and bytes and the shares of the card's own rates that these come
        to, the bytes at its peak, and `working_bytes` beyond what lay there before. One that ranks has its
        distance from an eager prefill in float32 without TF32, and its speed-up over the faster of the first
        two. One that fails has the reason instead, and keeps no other from running.
        """
        self._tell("the card's own rates")
        self._rates = measure_rates(self._device, self._shape)
        self._tell("float32 reference")
        exact = Baseline(self._model("float32"), self._items, self._sizes, lambda plain: plain, "regional")
        self._expected = exact.prefill("sdpa")(self._fields).cpu()
        modes: tuple[Mode, ...] = ("regional", "whole")
        first = {mode: self._measure(self._prefill("sdpa", mode)) for mode in modes}
        times = {mode: line.get("median_ms", float("inf")) for mode, line in first.items()}
        best = min(modes, key=times.__getitem__)
        forwards = [*first.values(), *(self._measure(line) for line in self._lines(best))]
        for line in forwards:
            if "largest" in line and "median_ms" in line:
                line["speed_up"] = times[best] / line["median_ms"]
        return {"shape": asdict(self._shape), "rates": self._rates, "forwards": forwards}

    def _lines(self, mode: Mode) -> list[Line]:
        shape, compiled = self._shape, f"{mode} compile"
        by_kernel, lowered = partial(self._scored, capture=False), partial(self._scored, "float8")
        copied = partial(Costs.decode, copied=True)
        whole, new = (partial(Costs.encode, new=count) for count in (shape.positions, shape.continued))
        generated = partial(Costs.generate, steps=shape.steps)
        return [
            self._prefill("flex", mode),
            Line("decode_sdpa", partial(self._copied_decode, mode), copied, mode=compiled),
            Line("decode_flex", by_kernel, Costs.decode, mode="as served, kernel by kernel"),
            Line("decode_flex_graph", self._scored, Costs.decode),
            Line("decode_flex_graph_float8", lowered, Costs.decode, precision="float8"),
            Line("encode_cold", partial(self._encoded, shape.positions), whole, ranks=False),
            Line("encode_warm", partial(self._encoded, shape.continued), new, ranks=False),
            Line("generate", self._generated, generated, ranks=False),
            Line("decode_flex_graph_int8_items", partial(self._scored, items="int8"), Costs.decode),
        ]

    def _measure(self, line: Line) -> dict[str, Any]:
        self._tell(f"{line.name}, {line.mode}")
        described = {name: getattr(line, name) for name in ("name", "precision", "mode")}
        if line.name in PAPER_SPEED_UPS:
            described["paper_speed_up"] = PAPER_SPEED_UPS[line.name]
        try:
            return described | self._run(line)
        except (RuntimeError, ValueError) as error:
            # A card may lack what a line needs, as units for float8; the others still say something.
            return described | {"failure": f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"}

    def _run(self, line: Line) -> dict[str, Any]:
        model, device, counts_memory = self._model(line.precision), self._device, self._device.type == "cuda"
        self._storage(line.precision)
        before = _forget_peak(device) if counts_memory else 0
        ready = line.make()
        launched = ready()
        found = _result(launched)
        # Before the clock, which holds memory of its own.
        peak = torch.cuda.max_memory_allocated(device) if counts_memory else 0
        taken = time_launch(launched.launch if isinstance(launched, StaticCall) else launched, device)
        cost = line.cost(Costs(model, self._shape.batch, *self._sizes))
        measured = {"weight_bytes": weight_bytes(model)} | asdict(cost) | taken
        if line.ranks:
            measured |= parity(found, self._expected)
        if counts_memory:
            measured |= {"peak_bytes": peak, "working_bytes": peak - before}
        if taken:
            seconds = taken["median_ms"] / 1e3
            product = self._rates["float8" if line.precision == "float8" else "bfloat16"]
            measured["matrix_share"] = (cost.linear_flops + cost.attention_flops) / seconds / product
            measured["copy_share"] = cost.bytes / seconds / self._rates["copy"]
        return measured

    def _prefill(self, attention: Attention, mode: Mode) -> Line:
        def make() -> Callable[[], Launched]:
            forward = self._baseline(mode).prefill(attention)
            return lambda: partial(forward, self._fields)

        return Line(f"prefill_{attention}", make, Costs.prefill, mode=f"{mode} compile")

    def _copied_decode(self, mode: Mode) -> Callable[[], Launched]:
        forward = self._baseline(mode).copied_decode(self._storage("bfloat16"), self._shape.batch)
        return lambda: partial(forward, self._fields)

    def _scored(
        self, precision: Precision = "bfloat16", *, capture: bool = True, items: ItemPrecision = "float32"
    ) -> Callable[[], Launched]:
        storage = self._storage(precision)
        scorer = CandidateScorer(self._parts(precision, capture=capture, items=items), storage)
        return lambda: _only(scorer.stage(self._batch.rows(storage)))[0]

    def _encoded(self, new: int) -> Callable[[], Launched]:
        encoder = SlotEncoder(self._parts("bfloat16"), self._storage("bfloat16"))
        return lambda: _only(encoder.stage(self._batch.prefills(self._shape.positions - new)))

    def _generated(self) -> Callable[[], Launched]:
        shape, config, asked = self._shape, self._shape.model, self._batch.asked(self._shape.candidates)
        generator = SlotGenerator(self._parts("bfloat16"), self._storage("bfloat16"), shape.steps)
        weight_A, offsets = asked[0].outcome_weight_A, len(config.time_offsets_s)
        plan = plan_queries(config.max_candidates, weight_A, shape.steps, offsets)
        return lambda: _only(generator.stage([plan] * len(asked), asked, self._batch.sequences()))[0]

    def _baseline(self, mode: Mode) -> Baseline:
        return Baseline(self._model("bfloat16"), self._items, self._sizes, self._compiled, mode)

    def _item_table(self, precision: ItemPrecision) -> ItemTable:
        return ItemTable(random_vectors(self._shape.model), precision, self._device)

    def _model(self, precision: Precision) -> ServedModel:
        if precision not in self._models:
            model = copy.deepcopy(self._models["float32"])
            self._models[precision] = model if precision == "float32" else lower_precision(model, precision)
        return self._models[precision]

    def _parts(
        self, precision: Precision, *, capture: bool = True, items: ItemPrecision = "float32"
    ) -> Parts:
        """What a function is made of; its graphs have memory of their own."""
        return Parts(
            device=self._device,
            model=self._model(precision),
            items=self._items if items == "float32" else self._item_table(items),
            launches=Launches.on(self._device, capture=capture),
            compiled=self._compiled,
            batches=(self._shape.batch,),
        )

    def _storage(self, precision: Precision) -> DeviceStorage:
        if precision not in self._storages:
            # One pool at a time: the memory of a line is its own.
            self._storages.clear()
            parts = self._parts(precision, capture=False)
            self._storages[precision] = filled_storage(self._batch, parts, self._shape.slots, self._allocator)
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
    """Begin to look for the peak of memory anew, and return the bytes that are allocated."""
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


def _only(staged: Iterable[Staged]) -> Staged:
    """The one call that a whole batch of equal rows needs."""
    (call,) = staged
    return call
