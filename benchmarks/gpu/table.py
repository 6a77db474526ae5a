"""UniPinRec's Table 2 on this card, and where else the time of a request goes."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from benchmarks.gpu.card import measure_rates
from benchmarks.gpu.clock import Clock, Ready, clock_of
from benchmarks.gpu.costs import Cost, Costs, weight_bytes
from benchmarks.gpu.forwards import Attention, CopiedDecode, Mode, Prefill
from benchmarks.gpu.inputs import random_batches, random_model, random_vectors
from benchmarks.gpu.parity import parity
from benchmarks.gpu.report import Forward, ForwardTable, Rates
from benchmarks.gpu.served_forwards import FilledSlots, StagedScorer
from benchmarks.gpu.shape import Shape
from ensemble.executors.cuda.item_table import ItemPrecision, ItemTable
from ensemble.kv.cuda.device_memory import DeviceAllocator
from unipinrec.models.common.slotted import Compile
from unipinrec.models.unified.precision import Lowered, lower_precision
from unipinrec.models.unified.served import ServedModel

Precision = Literal["float32"] | Lowered

PAPER_SPEED_UPS = {
    "prefill_sdpa": 1.0,
    "prefill_flex": 1.31,
    "decode_sdpa": 2.47,
    "decode_flex": 3.0,
    "decode_flex_graph_float8": 3.92,
}
"""UniPinRec Table 2: batch 8, n = 992, k = 656, 12 layers, on an NVIDIA L40S. It has no line for bfloat16
with a CUDA graph."""

REFERENCE = Forward(
    name="reference",
    title="prefill, sdpa: what parity is held against",
    precision="float32",
    mode="eager, without TF32, not timed",
)

MODES: tuple[Mode, ...] = ("regional", "whole")


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A forward to be measured."""

    name: str
    title: str
    precision: Precision
    mode: str
    make: Callable[[], tuple[Ready, Callable[[int], Tensor] | None]]
    """What is timed, and the probabilities [B, K, A] of a set, where it has any."""
    cost: Callable[[Costs], Cost]
    over_slots: bool
    """Whether it needs keys and values in slots before it begins."""


class TableBench:
    """One run of all lines over the same inputs and weights."""

    def __init__(
        self, shape: Shape, allocator: DeviceAllocator, compiled: Compile, tell: Callable[[str], None]
    ) -> None:
        """`compiled` is how the server compiles; `tell` is told what runs next."""
        self._shape = shape
        self._allocator = allocator
        self._compiled = compiled
        self._tell = tell
        self._device = allocator.device
        self._clock: Clock = clock_of(self._device)
        self._sizes = (shape.positions, shape.candidates)
        self._batches = random_batches(shape, self._device)
        self._vector_VE = random_vectors(shape)
        self._items = self._table("float32")
        self._models: dict[Precision, ServedModel] = {"float32": random_model(shape, self._device)}
        self._filled: dict[Precision, FilledSlots] = {}
        self._expected: list[Tensor] = []
        self._rates = Rates(bf16_flops=None, float8_flops=None, copy_bytes=None)

    @torch.inference_mode()
    def run(self) -> ForwardTable:
        """All lines. One that fails says why and keeps no other from running."""
        self._tell("the card's own rates")
        self._rates = measure_rates(self._device, self._shape, self._clock)
        self._tell("float32 reference")
        reference = Prefill(self._model("float32"), self._items, self._sizes, "sdpa")
        self._expected = [reference(batch.fields).cpu() for batch in self._batches]
        tried = [self._measure(self._prefill("prefill_sdpa", "sdpa", mode)) for mode in MODES]
        first = min(tried, key=_median)
        best: Mode = MODES[tried.index(first)]
        found = [first, self._measure(self._prefill("prefill_flex", "flex", best))]
        found += [self._measure(make()) for make in self._over_slots(best)]
        return ForwardTable(
            shape=_described(self._shape),
            rates=self._rates,
            forwards=(*(_with_speed_up(one, first) for one in found), REFERENCE),
            parts=tuple(self._measure(make()) for make in self._parts()),
            remarks=tuple(_remark(one) for one in tried),
        )

    def _over_slots(self, mode: Mode) -> list[Callable[[], Line]]:
        return [
            partial(self._decode, mode),
            partial(self._scored, "decode_flex", "bfloat16", capture=False),
            partial(self._scored, "decode_flex_graph", "bfloat16", capture=True),
            partial(self._scored, "decode_flex_graph_float8", "float8", capture=True),
        ]

    def _parts(self) -> list[Callable[[], Line]]:
        return [
            partial(self._encode, "encode_cold", self._shape.positions),
            partial(self._encode, "encode_warm", self._shape.continued),
            self._generate,
            partial(self._scored, "decode_flex_graph_int8_items", "bfloat16", capture=True, items="int8"),
        ]

    def _measure(self, line: Line) -> Forward:
        self._tell(f"{line.name}, {line.mode}")
        described = Forward(
            name=line.name,
            title=line.title,
            precision=line.precision,
            mode=line.mode,
            paper_speed_up=PAPER_SPEED_UPS.get(line.name),
        )
        try:
            return self._run(line, described)
        except (RuntimeError, ValueError) as error:
            # A card may lack what a line needs, as units for float8; the others still say something.
            reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            return described.model_copy(update={"failure": reason})

    def _run(self, line: Line, described: Forward) -> Forward:
        shape, clock = self._shape, self._clock
        model = self._model(line.precision)
        cost = line.cost(Costs(model, shape.batch, *self._sizes))
        if line.over_slots:
            self._slots(line.precision)
        before = clock.forget()
        ready, probabilities = line.make()
        taken = clock.time(ready, sets=shape.sets, warm_ups=shape.warm_ups, repetitions=shape.repetitions)
        peak = clock.peak()
        seconds = None if taken is None else taken.median_ms / 1e3
        rate = self._rates.float8_flops if line.precision == "float8" else self._rates.bf16_flops
        found = None if probabilities is None else [probabilities(place) for place in range(shape.sets)]
        return described.model_copy(
            update={
                "timing": taken,
                "parity": None if found is None else parity(found, self._expected),
                "linear_flops": cost.linear_flops,
                "attention_flops": cost.attention_flops,
                "bytes": cost.bytes,
                "matrix_share": _share(cost.flops, seconds, rate),
                "copy_share": _share(cost.bytes, seconds, self._rates.copy_bytes),
                "weight_bytes": weight_bytes(model),
                "peak_bytes": peak,
                "working_bytes": None if peak is None else peak - before,
            }
        )

    def _prefill(self, name: str, attention: Attention, mode: Mode) -> Line:
        def make() -> tuple[Ready, Callable[[int], Tensor]]:
            forward = Prefill(self._model("bfloat16"), self._items, self._sizes, attention)
            forward.compile(self._compiled, mode)
            return (
                lambda place: partial(forward, self._batches[place].fields),
                lambda place: forward(self._batches[place].fields).cpu(),
            )

        return Line(
            name=name,
            title=f"prefill, {attention}",
            precision="bfloat16",
            mode=f"{mode} compile",
            make=make,
            cost=Costs.prefill,
            over_slots=False,
        )

    def _decode(self, mode: Mode) -> Line:
        def make() -> tuple[Ready, Callable[[int], Tensor]]:
            filled = self._slots("bfloat16")
            forward = CopiedDecode(self._model("bfloat16"), self._items, filled.storage, self._sizes)
            forward.compile(self._compiled, mode)
            places = [forward.places(filled.slots(place)) for place in range(self._shape.sets)]
            return (
                lambda place: partial(forward, self._batches[place].fields, places[place]),
                lambda place: forward(self._batches[place].fields, places[place]).cpu(),
            )

        return Line(
            name="decode_sdpa",
            title="decode over copied keys and values, sdpa",
            precision="bfloat16",
            mode=f"{mode} compile",
            make=make,
            cost=partial(Costs.decode, copied=True),
            over_slots=True,
        )

    def _scored(
        self, name: str, precision: Precision, *, capture: bool, items: ItemPrecision = "float32"
    ) -> Line:
        def make() -> tuple[Ready, Callable[[int], Tensor]]:
            table = None if items == "float32" else self._table(items)
            scorer: StagedScorer = self._slots(precision).scorer(capture=capture, items=table)
            return lambda place: scorer.call(place).launch, scorer.probabilities

        return Line(
            name=name,
            title="decode over slots in place, flex"
            + (", CUDA graph" if capture else "")
            + (f", {items} items" if items != "float32" else ""),
            precision=precision,
            mode="as served, " + ("captured" if capture else "launched kernel by kernel"),
            make=make,
            cost=partial(Costs.decode, copied=False),
            over_slots=True,
        )

    def _encode(self, name: str, new: int) -> Line:
        def make() -> tuple[Ready, None]:
            filled = self._slots("bfloat16")
            encoder = filled.encoder(capture=True)
            cached = self._shape.positions - new

            def ready(place: int) -> Callable[[], object]:
                (call,) = encoder.stage(filled.continuations(place, cached))
                return call.launch

            return ready, None

        return Line(
            name=name,
            title=f"encode {new} of {self._shape.positions} positions",
            precision="bfloat16",
            mode="as served, captured",
            make=make,
            cost=partial(Costs.encode, new=new),
            over_slots=True,
        )

    def _generate(self) -> Line:
        def make() -> tuple[Ready, None]:
            generator = self._slots("bfloat16").generator(capture=True)
            return lambda place: generator.call(place).launch, None

        return Line(
            name="generate",
            title=f"generate in {self._shape.steps} steps",
            precision="bfloat16",
            mode="as served, captured",
            make=make,
            cost=partial(Costs.generate, steps=self._shape.steps),
            over_slots=True,
        )

    def _table(self, precision: ItemPrecision) -> ItemTable:
        return ItemTable(self._vector_VE, precision, self._device)

    def _model(self, precision: Precision) -> ServedModel:
        if precision not in self._models:
            model = copy.deepcopy(self._models["float32"])
            self._models[precision] = model if precision == "float32" else lower_precision(model, precision)
        return self._models[precision]

    def _slots(self, precision: Precision) -> FilledSlots:
        if precision not in self._filled:
            # One pool at a time: the memory of a line is its own.
            self._filled.clear()
            self._filled[precision] = FilledSlots(
                self._model(precision),
                self._items,
                self._shape,
                self._batches,
                self._allocator,
                self._compiled,
            )
        return self._filled[precision]


def _median(one: Forward) -> float:
    return one.timing.median_ms if one.timing else float("inf")


def _remark(one: Forward) -> str:
    if one.timing is None:
        return f"{one.name}, {one.mode}: {one.failure or 'run, not timed'}"
    return f"{one.name}, {one.mode}: {one.timing.median_ms:.2f} ms"


def _with_speed_up(one: Forward, first: Forward) -> Forward:
    if one.timing is None or first.timing is None:
        return one
    return one.model_copy(update={"speed_up": first.timing.median_ms / one.timing.median_ms})


def _share(amount: int, seconds: float | None, rate: float | None) -> float | None:
    return None if seconds is None or rate is None else amount / seconds / rate


def _described(shape: Shape) -> dict[str, int | str]:
    model = shape.model
    return {
        "name": shape.name,
        "batch": shape.batch,
        "positions": shape.positions,
        "candidates": shape.candidates,
        "layers": model.layers,
        "width": model.width,
        "heads": model.heads,
        "actions": model.num_actions,
        "items": model.num_items,
        "sets": shape.sets,
        "repetitions": shape.repetitions,
        "weights": "random",
    }
