"""The parts of `unipinrec bench gpu`: each fits into one short command and adds itself to the report."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

import torch
from pydantic_core import to_jsonable_python

from benchmarks.gpu.idle import measure_idle
from benchmarks.gpu.served import RATE_STEPS, compare_answers, compare_stacks, run_arrivals
from benchmarks.gpu.shape import Shape
from benchmarks.gpu.table import TableBench
from benchmarks.random_bundle import RandomBundle, make_random_bundle
from ensemble.executors.cuda.engine import GpuEngine, GpuOptions
from ensemble.gpu_presence import describe_gpus
from ensemble.kv.cuda.device_memory import DeviceAllocator
from ensemble.loaded_bundle import LoadedBundle
from experiments.report import Machine
from loadtest.report import write_report

Report = dict[str, Any]
"""What was found, part by part, beside `card`, `machine`, `shape`, and the `minutes` of each part."""


class Part(StrEnum):
    """What can be run alone, in the order in which all of it is run."""

    TABLE = "table"
    IDLE = "idle"
    SERVED = "served"
    ARRIVALS = "arrivals"
    ANSWERS = "answers"


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuBench:
    """The benchmark at one shape on one device."""

    allocator: DeviceAllocator
    options: GpuOptions
    """How the server computes."""
    shape: Shape
    items: int
    """Items of the served catalogue."""
    requests: int
    """Answers to compare."""
    seed: int
    out: Path
    """Folder of the report, bundles and logs."""
    tell: Callable[[str], None]
    """Is told what runs next."""

    def run(self, parts: Sequence[Part]) -> Report:
        """Run parts, each kept in the report's file `gpu.json` as soon as it is done.

        Raises:
            ServerError: the server does not start, or it stopped.
            NothingMeasuredError: a stack answered nothing for a whole window.
        """
        self.out.mkdir(parents=True, exist_ok=True)
        path, card = self.out / "gpu.json", {"card": describe_gpus(), "torch": torch.__version__}
        fresh = {"card": card, "machine": Machine.here(), "shape": self.shape.name, "minutes": {}}
        report: Report = to_jsonable_python(fresh)
        earlier = json.loads(path.read_text()) if path.exists() else {}
        # What another card, version or shape gave is not added to.
        if all(earlier.get(name) == report[name] for name in ("card", "shape")):
            report = earlier
        for part in parts:
            began = time.monotonic()
            report[part.value] = to_jsonable_python(getattr(self, f"_{part.value}")())
            report["minutes"][part.value] = (time.monotonic() - began) / 60
            report["ended"] = datetime.now(UTC).isoformat(timespec="seconds")
            write_report(path, report)
            torch.cuda.empty_cache()
        return report

    def _table(self) -> Report:
        return TableBench(self.shape, self.allocator, self.options.compiled, self.tell).run()

    def _idle(self) -> list[Report]:
        made, rows = self._bundle(), self.shape.batch
        self.tell("encode, generate and score in one process (minutes: it compiles and captures)")
        loaded = LoadedBundle(made.folder, made.manifest)
        engine = GpuEngine(loaded, self.allocator, replace(self.options, batches=(rows,)))
        return measure_idle(engine, loaded, rows, self.shape.continued)

    def _served(self) -> Report:
        return compare_stacks(self._bundle(), self.out / "server-gpu.log", self.tell)

    def _arrivals(self) -> Report:
        return run_arrivals(self._bundle(RATE_STEPS), self.out / "server-gpu-arrivals.log", self.tell)

    def _answers(self) -> Report:
        made, device = self._bundle(), self.allocator.device
        log = self.out / "server-gpu-answers.log"
        return compare_answers(made, log, self.tell, self.requests, self.seed, device)

    def _bundle(self, steps: int = 1) -> RandomBundle:
        """The bundle that is served, made on the CPU unless an earlier run left it."""
        self.tell(f"bundle of {self.items:,} items, {steps} retrieval steps (minutes, unless it is there)")
        folder, sizes = self.out / "bundles", self.shape.name
        return make_random_bundle(self.items, folder, lambda _: None, sizes=sizes, retrieval_steps=steps)
