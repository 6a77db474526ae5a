"""The parts of `unipinrec bench-gpu`: each fits into one short command and adds itself to the report."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

import torch

from benchmarks.gpu.answers import (
    TOLERANCE,
    AnswerCheck,
    answers_of,
    check_answers,
    random_caller,
    random_traffic,
)
from benchmarks.gpu.bars import bars_of
from benchmarks.gpu.card import describe_card
from benchmarks.gpu.idle import Chain, Ran, measure_idle
from benchmarks.gpu.report import Answers, GpuReport
from benchmarks.gpu.served import (
    LOAD,
    RATE_STEPS,
    gpu_server,
    make_bundle,
    run_arrivals,
    run_served,
    settings_for,
)
from benchmarks.gpu.shape import Shape
from benchmarks.gpu.table import TableBench
from benchmarks.target import UNIFIED
from ensemble.kv.cuda.device_memory import DeviceAllocator
from ensemble.loaded_bundle import LoadedBundle
from experiments.report import Machine
from unipinrec.models.common.slotted import Compile


class Part(StrEnum):
    """What can be run alone, in the order in which all of it is run."""

    TABLE = "table"
    IDLE = "idle"
    SERVED = "served"
    ARRIVALS = "arrivals"
    ANSWERS = "answers"


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuPlan:
    """What is run, and how large."""

    parts: tuple[Part, ...]
    shape: Shape
    items: int
    requests: int
    """Answers to compare."""
    seed: int
    out: Path

    @property
    def path(self) -> Path:
        """Of the report."""
        return self.out / "gpu.json"


class Hardware(Protocol):
    """What the parts need of a device."""

    device: torch.device
    allocator: DeviceAllocator
    compiled: Compile
    """How the server compiles."""

    def chain(self, loaded: LoadedBundle, batch: int, continued: int) -> Chain:
        """Encode, generate and score of a bundle, at one batch size."""

    def profile(self, run: Callable[[], object]) -> list[Ran]:
        """Run something and tell what ran on the device meanwhile."""

    def free(self) -> None:
        """Give back what no tensor holds any longer."""


class GpuBench:
    """One run of a plan on one card."""

    def __init__(self, plan: GpuPlan, hardware: Hardware, tell: Callable[[str], None]) -> None:
        """`tell` is told what runs next."""
        self._plan = plan
        self._hardware = hardware
        self._tell = tell

    def run(self) -> GpuReport:
        """All parts of the plan, each kept in the report's file as soon as it is done.

        Raises:
            ServerError: the server does not start, or it stopped.
            NoAnswerError: a stack answered nothing for a whole window.
        """
        card = describe_card(self._hardware.device)
        report = started_report(
            GpuReport.read(self._plan.path),
            GpuReport(started=_now(), machine=Machine.here(), card=card, shape=self._plan.shape.name),
        )
        for part in self._plan.parts:
            began = time.monotonic()
            found = self._parts()[part]()
            minutes = report.minutes | {part.value: (time.monotonic() - began) / 60}
            report = report.model_copy(
                update={"started": _now(), "card": card, part.value: found, "minutes": minutes}
            )
            report = report.model_copy(update={"bars": bars_of(report)})
            report.write(self._plan.path)
            self._hardware.free()
        return report

    def _parts(self) -> dict[Part, Callable[[], Any]]:
        return {
            Part.TABLE: self._table,
            Part.IDLE: self._idle,
            Part.SERVED: lambda: run_served(self._bundle(), self._plan.out, self._tell),
            Part.ARRIVALS: lambda: run_arrivals(self._bundle(RATE_STEPS), self._plan.out, self._tell),
            Part.ANSWERS: self._answers,
        }

    def _table(self) -> Any:
        hardware = self._hardware
        return TableBench(self._plan.shape, hardware.allocator, hardware.compiled, self._tell).run()

    def _idle(self) -> Any:
        made = self._bundle()
        self._tell("encode, generate and score in one process (minutes: it compiles and captures)")
        loaded = LoadedBundle(made.folder, made.manifest)
        shape, hardware = self._plan.shape, self._hardware
        return measure_idle(hardware.chain(loaded, shape.batch, shape.continued), hardware.profile)

    def _answers(self) -> Answers:
        made, plan = self._bundle(), self._plan
        log = plan.out / "server-gpu-answers.log"
        with gpu_server(made, {"unified_random": UNIFIED}, log, self._tell) as target:
            caller, maker = random_caller(made, target.client, UNIFIED, LOAD.timeout_s)
            check = AnswerCheck(made, maker, TOLERANCE, self._hardware.device)
            tally = check_answers(caller, random_traffic(made, plan.seed), check, plan.requests, self._tell)
        settings = settings_for(made).model_dump(mode="json", exclude={"bundle", "runtime_dir"})
        return answers_of(tally, TOLERANCE, settings)

    def _bundle(self, steps: int = 1) -> Any:
        plan = self._plan
        return make_bundle(plan.items, plan.out, self._tell, steps=steps, sizes=plan.shape.name)


def started_report(earlier: GpuReport | None, fresh: GpuReport) -> GpuReport:
    """What this run adds to: an earlier report of the same card, versions and shape, or a fresh one."""
    if earlier is None or _told_apart(earlier) != _told_apart(fresh):
        return fresh
    return earlier


def parts_of(only: Sequence[Part]) -> tuple[Part, ...]:
    """Those asked for in their order; all where none is."""
    return tuple(part for part in Part if not only or part in only)


def _told_apart(report: GpuReport) -> tuple[object, ...]:
    card = report.card
    return report.shape, card.name, card.driver, card.power_limit_w, card.torch, card.cuda


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
