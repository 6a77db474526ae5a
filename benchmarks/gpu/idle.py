"""How much of a batch's time no kernel runs: encode, generate and score, as the nodes call them.

What the server adds between the nodes, and the search of the index, are not part of it.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from benchmarks.gpu.intervals import covered
from benchmarks.gpu.report import Idle, Kernel
from benchmarks.workload import ASKED_AFTER_S, EventSpace, GrowingHistory
from ensemble.executors.cuda.engine import GpuEngine
from ensemble.executors.engine import ScoringRow
from ensemble.executors.generation import Asked
from ensemble.kv.prefill import CachedSequence, Prefill
from ensemble.loaded_bundle import LoadedBundle

BATCHES = 50
WARM_UPS = 5
MOST_KERNELS = 12
NAME_LENGTH = 90
US_PER_MS = 1e3
ON_DEVICE = frozenset({"kernel", "gpu_memcpy", "gpu_memset"})


@dataclass(frozen=True, slots=True)
class Ran:
    """One kernel or copy on the device."""

    name: str
    begin_us: float
    end_us: float


Profiler = Callable[[Callable[[], object]], list[Ran]]
"""Runs something and tells what ran on the device meanwhile, in any order."""


class Chain:
    """What both nodes do for one batch of requests, over slots that no other process sees."""

    def __init__(self, engine: GpuEngine, loaded: LoadedBundle, batch: int, continued: int) -> None:
        """Compiles and captures. `continued` is how many events a returning user brings."""
        self.batch = batch
        self._engine = engine
        self._storage = engine.private()
        engine.prepare(self._storage, ("encode", "generate", "score"))
        self._continued = continued
        model = loaded.manifest.model
        space = EventSpace.of(loaded.manifest)
        draw = np.random.default_rng(batch)
        self._histories = [GrowingHistory(space, (5, row), space.max_history).history for row in range(batch)]
        self._candidate_BK = draw.integers(model.num_items, size=(batch, model.max_candidates))
        self._asked = [
            Asked(
                request_time=int(history.timestamp_N[-1]) + ASKED_AFTER_S,
                surface=0,
                last_event_time=int(history.timestamp_N[-1]),
                num_results=-(-model.max_candidates // loaded.manifest.defaults.over_fetch),
                outcome_weight_A=np.zeros(model.num_actions, np.float32),
            )
            for history in self._histories
        ]

    def cold(self) -> None:
        """Whole histories."""
        self._run(continued=False)

    def warm(self) -> None:
        """Histories of which all but the latest events are in their slots; `cold` has been run before."""
        self._run(continued=True)

    @torch.inference_mode()
    def _run(self, *, continued: bool) -> None:
        places = [CachedSequence(slot, len(one) + 1) for slot, one in enumerate(self._histories)]
        cached = [place.length - self._continued if continued else 0 for place in places]
        self._engine.encode(
            self._storage,
            [
                Prefill(history, past, place.slot)
                for history, past, place in zip(self._histories, cached, places, strict=True)
            ],
        )
        self._storage.synchronize()
        self._engine.generate(self._storage, self._asked, places)
        self._engine.score(
            [
                ScoringRow(self._storage, place, item_row_K, asked.request_time, asked.surface)
                for place, item_row_K, asked in zip(places, self._candidate_BK, self._asked, strict=True)
            ]
        )


def measure_idle(chain: Chain, profiler: Profiler, batches: int = BATCHES) -> tuple[Idle, ...]:
    """Of cold and of warm batches."""
    return tuple(
        _measure(kind, run, profiler, batches, chain.batch)
        for kind, run in (("cold", chain.cold), ("warm", chain.warm))
    )


def _measure(kind: str, run: Callable[[], None], profiler: Profiler, batches: int, batch: int) -> Idle:
    for _ in range(WARM_UPS):
        run()
    wall_ms = _wall_ms(run, batches)
    walls: list[float] = []
    ran = profiler(lambda: walls.append(_wall_ms(run, batches)))
    busy_ms = covered((one.begin_us, one.end_us) for one in ran) / US_PER_MS / batches
    return Idle(
        kind=kind,
        batches=batches,
        batch=batch,
        wall_ms=wall_ms,
        profiled_wall_ms=walls[0],
        busy_ms=busy_ms,
        outside_share=1 - busy_ms / wall_ms,
        profiled_outside_share=1 - busy_ms / walls[0],
        kernels=top_kernels(ran, batches),
    )


def _wall_ms(run: Callable[[], None], batches: int) -> float:
    """Of one batch. Each ends with its results in host memory, so nothing is left running."""
    began = time.perf_counter()
    for _ in range(batches):
        run()
    return 1e3 * (time.perf_counter() - began) / batches


def ran_on_device(trace: Mapping[str, Any]) -> list[Ran]:
    """Kernels, copies and fills of a trace as PyTorch's profiler exports it.

    It also draws spans of the host's functions on the device, which cover pauses and are left out.
    """
    return [
        Ran(str(event["name"]), float(event["ts"]), float(event["ts"]) + float(event["dur"]))
        for event in trace["traceEvents"]
        if event.get("cat") in ON_DEVICE and event.get("ph") == "X"
    ]


def top_kernels(ran: Sequence[Ran], batches: int) -> tuple[Kernel, ...]:
    """Those that took most time, by name."""
    taken: dict[str, list[float]] = defaultdict(list)
    for one in ran:
        taken[one.name].append(one.end_us - one.begin_us)
    total = sum(map(sum, taken.values()))
    ordered = sorted(taken.items(), key=lambda item: -sum(item[1]))
    return tuple(
        Kernel(name=name[:NAME_LENGTH], share=sum(each) / total, count=len(each) / batches)
        for name, each in ordered[:MOST_KERNELS]
    )
