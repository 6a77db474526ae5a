"""Whether there is a GPU to compute on, found out without touching one."""

import subprocess

import torch

DESCRIBED = ("name", "driver_version", "power.limit", "clocks.max.sm", "memory.total", "compute_cap")


class NoGpuError(RuntimeError):
    """A GPU was asked for, and there is none or a library cannot use it; the message is one line."""


def require_gpu(asked: str, instead: str) -> None:
    """Refuse what needs a GPU where PyTorch has none; the calling process keeps no memory on any.

    `asked` says what needs it, and `instead` what else is allowed. Raises `NoGpuError` if PyTorch is built
    without CUDA, or finds no GPU.
    """
    # Counted by the driver's library where possible: `is_available` may start CUDA in this process.
    if torch.cuda.device_count() == 0:
        raise NoGpuError(
            f"{asked}, which needs a GPU; PyTorch {torch.__version__} finds none. Allowed: a host with an "
            f"NVIDIA GPU and PyTorch's build for CUDA{instead}"
        )


def describe_gpus() -> str:
    """Return name, driver, limits, memory and compute capability of all GPUs, as the driver tells them."""
    query = ["nvidia-smi", f"--query-gpu={','.join(DESCRIBED)}", "--format=csv,noheader"]
    try:
        told = subprocess.run(query, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        return f"unknown, since nvidia-smi failed: {error}"
    return f"{', '.join(DESCRIBED)}: {'; '.join(told.splitlines())}"
