"""The card that runs, and what it reaches by itself. Only queries: its settings stay as they are."""

import shutil
import subprocess
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

import torch
from torch import Tensor

from benchmarks.gpu.clock import Clock
from benchmarks.gpu.report import Card, Rates, Timing
from benchmarks.gpu.shape import Shape
from unipinrec.models.common.float8 import FLOAT8, LEAST_CAPABILITY

QUERY = {
    "driver": "driver_version",
    "memory_mib": "memory.total",
    "power_limit_w": "power.limit",
    "sm_clock_mhz": "clocks.sm",
    "most_sm_clock_mhz": "clocks.max.sm",
    "memory_clock_mhz": "clocks.mem",
}
"""Fields of `Card` by the names that nvidia-smi gives them."""

QUERY_TIMEOUT_S = 20.0
WARM_UPS, REPETITIONS = 5, 20


class NoCardError(RuntimeError):
    """There is no GPU to measure on."""


def require_card() -> torch.device:
    """The GPU to measure on.

    Raises:
        NoCardError: PyTorch finds none.
    """
    if not torch.cuda.is_available():
        raise NoCardError(
            f"bench-gpu measures on a GPU; PyTorch {torch.__version__} finds none. Allowed: a host with an "
            "NVIDIA GPU and PyTorch's CUDA build"
        )
    return torch.device("cuda", torch.cuda.current_device())


def describe_card(device: torch.device) -> Card:
    """Name, driver, limits and versions."""
    cuda = device.type == "cuda"
    fields = told_fields(_nvidia_smi(device)) if cuda else {}
    return Card.model_validate(
        {
            "name": torch.cuda.get_device_name(device) if cuda else "no GPU",
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "triton": _version("triton"),
            **fields,
        }
    )


def told_fields(line: str) -> dict[str, str]:
    """Fields of `Card` in one line of nvidia-smi's CSV; what the card does not tell is left out."""
    values = [value.strip() for value in line.split(",")]
    if len(values) != len(QUERY):
        return {}
    return {name: value for name, value in zip(QUERY, values, strict=True) if value and value[0] != "["}


def measure_rates(device: torch.device, shape: Shape, clock: Clock) -> Rates:
    """The card's own rates, on random numbers: zeros take less power and so run faster."""
    size = shape.matrix
    flops = 2 * size**3
    left, right = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    source = torch.randint(256, (shape.copied_bytes,), device=device, dtype=torch.uint8)
    target = torch.empty_like(source)
    return Rates(
        bf16_flops=_rate(flops, _timed(clock, lambda: left @ right)),
        float8_flops=_rate(flops, _timed(clock, _float8_product(left, right)))
        if _has_float8(device)
        else None,
        copy_bytes=_rate(2 * source.nbytes, _timed(clock, lambda: target.copy_(source))),
    )


def _float8_product(left: Tensor, right: Tensor) -> Callable[[], Tensor]:
    """One scale for each tensor, and the faster of both ways to add up."""
    one = torch.ones((), device=left.device)
    low, high = left.to(FLOAT8), right.to(FLOAT8)
    return lambda: torch._scaled_mm(
        low, high.t(), scale_a=one, scale_b=one, out_dtype=torch.bfloat16, use_fast_accum=True
    )


def _has_float8(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= LEAST_CAPABILITY


def _timed(clock: Clock, launch: Callable[[], object]) -> Timing | None:
    return clock.time(lambda _: launch, sets=1, warm_ups=WARM_UPS, repetitions=REPETITIONS)


def _rate(amount: int, timing: Timing | None) -> float | None:
    """Of so much in one launch, a second."""
    return None if timing is None else 1e3 * amount / timing.median_ms


def _nvidia_smi(device: torch.device) -> str:
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    uuid = getattr(torch.cuda.get_device_properties(device), "uuid", None)
    chosen = [f"--id=GPU-{uuid}"] if uuid else []
    command = [
        program, *chosen, f"--query-gpu={','.join(QUERY.values())}", "--format=csv,noheader,nounits",
    ]  # fmt: skip
    found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=QUERY_TIMEOUT_S)
    return found.stdout.strip().partition("\n")[0] if found.returncode == 0 else ""


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
