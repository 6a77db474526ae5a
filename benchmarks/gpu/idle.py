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

BATCHES, WARM_UPS = 50, 5
MOST_KERNELS, NAME_LENGTH = 12, 90


def measure_idle(engine: GpuEngine, loaded: LoadedBundle, rows: int, new: int) -> list[dict[str, Any]]:
    """Return what cold batches spend, and warm ones of which all but the last `new` positions are cached.

    `wall_ms` is the time of a batch, `busy_ms` that in which kernels and copies ran by the profile, and
    `outside_share` the share of the former without the latter; `profiled_` with the profiler, which slows a
    batch down. `kernels` took most of the busy time.
    """
    config, storage = loaded.manifest.model, engine.private()
    engine.prepare(storage, ("encode", "generate", "score"))
    batch = random_batch(config, rows, config.max_history, config.max_candidates)
    asked = batch.asked(-(-config.max_candidates // loaded.manifest.defaults.over_fetch))

    @torch.inference_mode()
    def run(cached: int, times: int) -> float:
        """Milliseconds of a batch."""
        began = time.perf_counter()
        for _ in range(times):
            engine.encode(storage, batch.prefills(cached))
            storage.synchronize()
            engine.generate(storage, asked, batch.sequences())
            # Ends with its results in host memory, so nothing is left running.
            engine.score(batch.rows(storage))
        return 1e3 * (time.perf_counter() - began) / times

    measured = []
    for kind, cached in (("cold", 0), ("warm", config.max_positions - new)):
        run(cached, WARM_UPS)
        wall_ms = run(cached, BATCHES)
        with profile() as profiler:
            profiled_ms = run(cached, BATCHES)
        busy_ms, kernels = device_time(profiler.key_averages(), BATCHES)
        found = {"kind": kind, "wall_ms": wall_ms, "profiled_wall_ms": profiled_ms, "busy_ms": busy_ms}
        shares = {"outside_share": 1 - busy_ms / wall_ms, "profiled_outside_share": 1 - busy_ms / profiled_ms}
        measured.append(found | shares | {"batches": BATCHES, "kernels": kernels})
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
