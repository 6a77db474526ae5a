"""What the card reaches by itself, and how long a launch on it takes. Its settings stay as they are."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from unipinrec.models.common.float8 import FLOAT8, LEAST_CAPABILITY

WARM_UP_MS, MEASURED_MS = 100, 1000
MATRIX, COPIED_BYTES = 8192, 2 << 30
"""Rows and columns of the square matrices, and the size of the copy, that give the card's own rates."""


def time_launch(launch: Callable[[], object], device: torch.device) -> dict[str, float]:
    """Return the time of a launch on a GPU that begins with an empty L2 cache, as `spread`. Elsewhere run it
    and return nothing: a CPU's time would say nothing about a GPU's."""
    if device.type != "cuda":
        launch()
        return {}
    from triton.testing import do_bench

    return spread(do_bench(launch, warmup=WARM_UP_MS, rep=MEASURED_MS, return_mode="all"))


def spread(taken_ms: Sequence[float]) -> dict[str, float]:
    """Return median, 10th and 90th percentile, and the number of launches."""
    p10_ms, median_ms, p90_ms = np.percentile(taken_ms, (10, 50, 90)).tolist()
    return {"median_ms": median_ms, "p10_ms": p10_ms, "p90_ms": p90_ms, "launches": len(taken_ms)}


def measure_rates(device: torch.device) -> dict[str, float]:
    """Return what a GPU reaches on random numbers, since zeros take less power and so run faster: FLOPs a
    second of large products (`bfloat16`, `float8`), and bytes a second, read and written, of a `copy`."""
    if device.type != "cuda":
        return {}
    flops = 2 * MATRIX**3
    left, right = (torch.randn(MATRIX, MATRIX, device=device, dtype=torch.bfloat16) for _ in range(2))
    source = torch.randint(256, (COPIED_BYTES,), device=device, dtype=torch.uint8)
    target = torch.empty_like(source)

    def rate(amount: int, launch: Callable[[], object]) -> float:
        return 1e3 * amount / time_launch(launch, device)["median_ms"]

    rates = {
        "bfloat16": rate(flops, lambda: left @ right),
        "copy": rate(2 * COPIED_BYTES, lambda: target.copy_(source)),
    }
    if torch.cuda.get_device_capability(device) >= LEAST_CAPABILITY:
        scale, low, high = torch.ones((), device=device), left.to(FLOAT8), right.to(FLOAT8).t()
        # A scale for each whole tensor, and the faster of both ways to add up.
        how: dict[str, Any] = {"scale_a": scale, "scale_b": scale, "use_fast_accum": True}
        product = torch._scaled_mm
        rates["float8"] = rate(flops, lambda: product(low, high, out_dtype=torch.bfloat16, **how))
    return rates
