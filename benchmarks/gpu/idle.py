"""How much of a batch's time no kernel runs: encode, generate and score, as the nodes call them.

What the server adds between the nodes, and the search of the index, are not part of it.
"""

import time
from collections.abc import Iterable
from typing import Any

import torch
from torch.profiler import profile

from benchmarks.gpu.inputs import random_batch
from ensemble.executors.cuda.engine import GpuEngine
from ensemble.loaded_bundle import LoadedBundle

BATCHES = 50
WARM_UPS = 5
MOST_KERNELS, NAME_LENGTH = 12, 90


class Chain:
    """What both nodes do for one batch of requests, over slots that no other process sees."""

    def __init__(self, engine: GpuEngine, loaded: LoadedBundle, rows: int) -> None:
        """Compiles and captures."""
        config = loaded.manifest.model
        self._engine = engine
        self._storage = engine.private()
        engine.prepare(self._storage, ("encode", "generate", "score"))
        self._batch = random_batch(config, rows, config.max_history, config.max_candidates)
        self._asked = self._batch.asked(-(-config.max_candidates // loaded.manifest.defaults.over_fetch))
        self.positions = config.max_positions

    @torch.inference_mode()
    def run(self, cached: int, batches: int) -> float:
        """Return the milliseconds of a batch, the first `cached` positions of which are in the slots."""
        began = time.perf_counter()
        for _ in range(batches):
            self._engine.encode(self._storage, self._batch.prefills(cached))
            self._storage.synchronize()
            self._engine.generate(self._storage, self._asked, self._batch.sequences())
            # Ends with its results in host memory, so nothing is left running.
            self._engine.score(self._batch.rows(self._storage))
        return 1e3 * (time.perf_counter() - began) / batches


def measure_idle(chain: Chain, new: int, batches: int = BATCHES) -> list[dict[str, Any]]:
    """Return what cold batches spend, and warm ones of which all but the last `new` positions are cached.

    `wall_ms` is the time of a batch, `busy_ms` that in which kernels and copies ran by the profile, and
    `outside_share` the share of the former without the latter; `profiled_` with the profiler, which slows a
    batch down. `kernels` took most of the busy time.
    """
    measured = []
    for kind, cached in (("cold", 0), ("warm", chain.positions - new)):
        chain.run(cached, WARM_UPS)
        wall_ms = chain.run(cached, batches)
        with profile() as profiler:
            profiled_ms = chain.run(cached, batches)
        busy_ms, kernels = device_time(profiler.key_averages(), batches)
        measured.append(
            {
                "kind": kind,
                "batches": batches,
                "wall_ms": wall_ms,
                "profiled_wall_ms": profiled_ms,
                "busy_ms": busy_ms,
                "outside_share": 1 - busy_ms / wall_ms,
                "profiled_outside_share": 1 - busy_ms / profiled_ms,
                "kernels": kernels,
            }
        )
    return measured


def device_time(averages: Iterable[Any], batches: int) -> tuple[float, list[dict[str, Any]]]:
    """Return the milliseconds of a batch in which the device ran, and what took most of them, out of the
    profiler's averages.

    An engine launches all on one stream, so that the times of kernels and copies add up. Spans of the host's
    functions, which the profiler also draws on the device, cover pauses and are left out.
    """
    on_device = [average for average in averages if average.device_type.name == "CUDA"]
    ran = [average for average in on_device if not average.is_user_annotation]
    total_us = sum(average.self_device_time_total for average in ran)
    ran.sort(key=lambda average: -average.self_device_time_total)
    return total_us / 1e3 / batches, [
        {
            "name": average.key[:NAME_LENGTH],
            "share": average.self_device_time_total / total_us,
            "count": average.count / batches,
        }
        for average in ran[:MOST_KERNELS]
    ]
