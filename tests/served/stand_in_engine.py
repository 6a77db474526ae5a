"""The GPU's engine in the processes of a real server, on host memory, for tests without a GPU."""

from collections.abc import Mapping

from ensemble.executors.cuda.engine import GpuEngine, GpuOptions
from ensemble.loaded_bundle import LoadedBundle
from ensemble.settings import ServingSettings
from tests.support.stand_in_device import StandInAllocator


def engine_of(args: Mapping[str, str], loaded: LoadedBundle, settings: ServingSettings) -> GpuEngine:
    """Stands where `ensemble.executors.engines.engine_of` does; nothing is compiled or captured on a CPU."""
    del args, settings
    options = GpuOptions(
        precision="float32", batches=(1, 8), compiled=lambda function: function, capture=False
    )
    return GpuEngine(loaded, StandInAllocator(), options)
