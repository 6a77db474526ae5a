"""The GPU's engine as the settings ask for it."""

import torch

from ensemble.gpu.cuda_memory import CudaAllocator
from ensemble.gpu.engine import GpuEngine, GpuOptions
from ensemble.gpu_presence import require_gpu
from ensemble.loaded_bundle import LoadedBundle
from ensemble.settings import ServingSettings

RECOMPILES = 64
"""Shapes that one compiled function may meet: every bucket, and whatever the bench adds."""


def cuda_engine(loaded: LoadedBundle, settings: ServingSettings, index: int) -> GpuEngine:
    """The engine of one GPU.

    Raises:
        NoGpuError: there is none.
        ValueError: it lacks what the precision needs.
    """
    require_gpu(f"instance_group names GPU {index}", ", or no --profile")
    device = torch.device("cuda", index)
    torch.cuda.set_device(device)
    torch._dynamo.config.recompile_limit = RECOMPILES
    options = GpuOptions(
        precision=settings.gpu_precision,
        item_precision=settings.gpu_item_precision,
        compiled=torch.compile if settings.gpu_compile else lambda function: function,
        capture=settings.gpu_graphs,
    )
    return GpuEngine(loaded, CudaAllocator(device), options)
