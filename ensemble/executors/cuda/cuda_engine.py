"""The GPU's engine as the settings ask for it."""

from collections.abc import Mapping

import torch

from ensemble.executors.cuda.engine import GpuEngine, GpuOptions, compile_each_shape
from ensemble.executors.cuda.ranker_shapes import RankingShapes
from ensemble.executors.cuda.second_ranker import GpuSecondRanker
from ensemble.executors.second_ranker import second_ranker_files
from ensemble.gpu_presence import require_gpu
from ensemble.kv.cuda.cuda_memory import CudaAllocator
from ensemble.loaded_bundle import LoadedBundle
from ensemble.settings import ServingSettings
from unipinrec.models.common.slotted import Compile
from unipinrec.models.transact.served import load_second_ranker

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
    _require(index)
    return GpuEngine(loaded, *set_up_gpu(settings, index))


def cuda_second_ranker(loaded: LoadedBundle, settings: ServingSettings, index: int) -> GpuSecondRanker:
    """Return the second ranker of one GPU, which it makes the current one. Raises `NoGpuError` if there is
    none, `BundleError` if the bundle has no second ranker, and `ValueError` for one of sizes that no kernel
    has."""
    _require(index)
    # Triton's language, which a host without a GPU may lack.
    from ensemble.executors.cuda.ranker_kernels import kernels_for

    device = torch.device("cuda", index)
    torch.cuda.set_device(device)
    dtype = torch.float32 if settings.gpu_precision == "float32" else torch.float16
    model = load_second_ranker(*second_ranker_files(loaded))
    shapes = RankingShapes.of(model.config, loaded.manifest.model.max_candidates)
    kernels = kernels_for(model, device, dtype)
    return GpuSecondRanker(model, device, kernels, shapes=shapes, capture=settings.gpu_graphs)


def _require(index: int) -> None:
    require_gpu(f"instance_group names GPU {index}", ", or no --profile")


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
