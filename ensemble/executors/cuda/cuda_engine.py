"""The GPU's engine as the settings ask for it."""

from collections.abc import Mapping

import torch

from ensemble.executors.cuda.engine import GpuEngine, GpuOptions, compile_each_shape
from ensemble.gpu_presence import require_gpu
from ensemble.kv.cuda.cuda_memory import CudaAllocator
from ensemble.loaded_bundle import LoadedBundle
from ensemble.settings import ServingSettings
from unipinrec.models.common.slotted import Compile

COMPILERS: Mapping[str, Compile] = {
    "static": compile_each_shape,
    "dynamic": torch.compile,
    "off": lambda function: function,
}

RECOMPILES = 256
"""Variants of one compiled function: far more than there are buckets."""


def cuda_engine(loaded: LoadedBundle, settings: ServingSettings, index: int) -> GpuEngine:
    """Return the engine of one GPU. Raises `NoGpuError` if there is none, and `ValueError` if it lacks what
    the precision needs."""
    require_gpu(f"instance_group names GPU {index}", ", or no --profile")
    return GpuEngine(loaded, *set_up_gpu(settings, index))


def set_up_gpu(settings: ServingSettings, index: int) -> tuple[CudaAllocator, GpuOptions]:
    """Make a GPU the current one and set up the compiler, for the whole process; return the GPU's memory and
    the options that the settings ask for."""
    device = torch.device("cuda", index)
    torch.cuda.set_device(device)
    set_up_compiler()
    options = GpuOptions(
        precision=settings.gpu_precision,
        item_precision=settings.gpu_item_precision,
        compiled=COMPILERS[settings.gpu_compile],
        # Attention that is not compiled waits for the device, which no graph may.
        capture=settings.gpu_graphs and settings.gpu_compile != "off",
    )
    return CudaAllocator(device), options


def set_up_compiler() -> None:
    """Let `torch.compile` meet all shapes; for the whole process.

    Beyond its limit it would go on without compiling, and attention would compute every score of every slot:
    that is an error instead.
    """
    torch._dynamo.config.recompile_limit = RECOMPILES
    torch._dynamo.config.accumulated_recompile_limit = 16 * RECOMPILES
    torch._dynamo.config.fail_on_recompile_limit_hit = True
