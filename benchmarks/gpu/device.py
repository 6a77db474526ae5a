"""The GPU as the server sets it up. Nothing here runs without one."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.idle import Chain, Ran, ran_on_device
from ensemble.executors.cuda.cuda_engine import COMPILERS, set_up_compiler
from ensemble.executors.cuda.engine import GpuEngine, GpuOptions
from ensemble.kv.cuda.cuda_memory import CudaAllocator
from ensemble.kv.cuda.device_memory import DeviceAllocator
from ensemble.loaded_bundle import LoadedBundle
from ensemble.settings import ServingSettings
from unipinrec.models.common.slotted import Compile


class Cuda:
    """See `Hardware`."""

    def __init__(self, device: torch.device) -> None:
        """PyTorch is set up as in the nodes."""
        torch.cuda.set_device(device)
        set_up_compiler()
        self.device = device
        self.allocator: DeviceAllocator = CudaAllocator(device)
        self.compiled: Compile = COMPILERS[ServingSettings().gpu_compile]

    def chain(self, loaded: LoadedBundle, batch: int, continued: int) -> Chain:
        """See `Hardware`; in the precisions that the environment's settings ask for."""
        settings = ServingSettings()
        options = GpuOptions(
            precision=settings.gpu_precision,
            item_precision=settings.gpu_item_precision,
            batches=(batch,),
            compiled=self.compiled,
        )
        return Chain(GpuEngine(loaded, self.allocator, options), loaded, batch, continued)

    def profile(self, run: Callable[[], object]) -> list[Ran]:
        """See `Hardware`; by PyTorch's profiler."""
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
            run()
            torch.cuda.synchronize(self.device)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "trace.json"
            profiled.export_chrome_trace(str(path))
            return ran_on_device(json.loads(path.read_text()))

    def free(self) -> None:
        """See `Hardware`."""
        torch.cuda.empty_cache()
