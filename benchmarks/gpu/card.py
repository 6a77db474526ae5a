"""The card that runs, and what it reaches by itself. Only queries: its settings stay as they are."""

import subprocess
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch

from benchmarks.gpu.shape import Shape
from unipinrec.models.common.float8 import FLOAT8, LEAST_CAPABILITY

QUERY = ("driver_version", "memory.total", "power.limit", "clocks.sm", "clocks.max.sm", "clocks.mem")
"""What nvidia-smi is asked for, in MiB, W and MHz."""

QUERY_TIMEOUT_S = 20.0
WARM_UP_MS, MEASURED_MS = 100, 1000


def describe_card(device: torch.device) -> dict[str, str | None]:
    """Return name, versions and what nvidia-smi tells of a GPU. `triton` is the compiler, not the server."""
    try:
        triton = version("triton")
    except PackageNotFoundError:
        triton = None
    versions = {"torch": torch.__version__, "cuda": torch.version.cuda, "triton": triton}
    if device.type != "cuda":
        return {"name": "no GPU"} | versions
    properties = torch.cuda.get_device_properties(device)
    command = ["nvidia-smi", f"--id=GPU-{properties.uuid}", f"--query-gpu={','.join(QUERY)}"]
    command.append("--format=csv,noheader,nounits")
    try:
        line = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=QUERY_TIMEOUT_S
        ).stdout
    except (OSError, subprocess.SubprocessError):
        line = ""
    return {"name": properties.name} | versions | told(line)


def told(line: str) -> dict[str, str]:
    """Return the values of `QUERY` in a line of nvidia-smi's CSV; what the card does not tell is left out."""
    values = zip(QUERY, line.strip().split(", "), strict=False)
    return {name: value for name, value in values if value and value[0] != "["}


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


def measure_rates(device: torch.device, shape: Shape) -> dict[str, float]:
    """Return what a GPU reaches on random numbers, since zeros take less power and so run faster: FLOPs a
    second of large products (`bfloat16`, `float8`), and bytes a second, read and written, of a `copy`."""
    size = shape.matrix
    left, right = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    source = torch.randint(256, (shape.copied_bytes,), device=device, dtype=torch.uint8)
    target = torch.empty_like(source)
    amounts = {"bfloat16": 2 * size**3, "float8": 2 * size**3, "copy": 2 * source.nbytes}
    launches: dict[str, Callable[[], object]] = {
        "bfloat16": lambda: left @ right,
        "copy": lambda: target.copy_(source),
    }
    if device.type == "cuda" and torch.cuda.get_device_capability(device) >= LEAST_CAPABILITY:
        scale, low, high = torch.ones((), device=device), left.to(FLOAT8), right.to(FLOAT8).t()
        # A scale for each whole tensor, and the faster of both ways to add up.
        how: dict[str, Any] = {"scale_a": scale, "scale_b": scale, "use_fast_accum": True}
        launches["float8"] = lambda: torch._scaled_mm(low, high, out_dtype=torch.bfloat16, **how)
    taken = {name: time_launch(launch, device) for name, launch in launches.items()}
    return {name: 1e3 * amounts[name] / time["median_ms"] for name, time in taken.items() if time}
