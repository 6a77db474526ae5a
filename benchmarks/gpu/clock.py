"""Times launches on a GPU; elsewhere it runs them and tells no time."""

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch

from benchmarks.gpu.report import Timing

Launch = Callable[[], object]
Ready = Callable[[int], Launch]
"""Makes everything of one set ready, untimed, and returns what is timed."""


class Clock(Protocol):
    """Measures one function over all sets in turn."""

    def time(self, ready: Ready, *, sets: int, warm_ups: int, repetitions: int) -> Timing | None:
        """Milliseconds of a launch; None where none are measured."""

    def peak(self) -> int | None:
        """Most bytes that were allocated at once since `forget`; None where nothing counts them."""

    def forget(self) -> int:
        """Begin to look for the peak anew, and return the bytes that are allocated."""


class CudaClock:
    """CUDA events around each launch, which begins on an idle device.

    What launching costs beyond what the device hides is thus part of the time, as for a request that meets
    an idle server.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def time(self, ready: Ready, *, sets: int, warm_ups: int, repetitions: int) -> Timing | None:
        """See `Clock`."""
        for place in range(warm_ups):
            ready(place % sets)()
        taken = [self._once(ready(place % sets)) for place in range(repetitions)]
        return timing(taken)

    def peak(self) -> int | None:
        """See `Clock`."""
        return torch.cuda.max_memory_allocated(self._device)

    def forget(self) -> int:
        """See `Clock`."""
        torch.cuda.synchronize(self._device)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self._device)
        return torch.cuda.memory_allocated(self._device)

    def _once(self, launch: Launch) -> float:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(self._device)
        begin.record()
        launch()
        end.record()
        end.synchronize()
        taken: float = begin.elapsed_time(end)
        return taken


class StillClock:
    """Runs everything and measures nothing: a CPU's time would say nothing about a GPU."""

    def time(self, ready: Ready, *, sets: int, warm_ups: int, repetitions: int) -> Timing | None:
        """See `Clock`."""
        for place in range(warm_ups + repetitions):
            ready(place % sets)()
        return None

    def peak(self) -> int | None:
        """See `Clock`."""
        return None

    def forget(self) -> int:
        """See `Clock`."""
        return 0


def clock_of(device: torch.device) -> Clock:
    """The clock of a device."""
    return CudaClock(device) if device.type == "cuda" else StillClock()


def timing(taken_ms: list[float]) -> Timing:
    """Median and spread."""
    p10, median, p90 = np.percentile(taken_ms, (10, 50, 90)).tolist()
    return Timing(median_ms=median, p10_ms=p10, p90_ms=p90, repetitions=len(taken_ms))
