"""Which engine a node computes with: Triton says where an instance runs."""

from collections.abc import Mapping

import torch

from ensemble.executors.engine import Engine
from ensemble.executors.second_ranker import CpuSecondRanker, SecondRanker, second_ranker_files
from ensemble.executors.torchscript.engine import CpuEngine
from ensemble.loaded_bundle import LoadedBundle
from ensemble.settings import ServingSettings
from ensemble.stores.served_items import ServedItems


def engine_of(args: Mapping[str, str], loaded: LoadedBundle, settings: ServingSettings) -> Engine:
    """Return the engine of one instance of a node, by `kind` in its `instance_group`.

    `args` is what Triton passes to `initialize`. `KIND_GPU` moves nothing by itself: the process computes on
    the device that is named beside it.
    """
    torch.set_num_threads(settings.threads)
    if args["model_instance_kind"] != "GPU":
        return CpuEngine(loaded, settings.kv_precision, ServedItems.open(loaded, settings))
    # The CPU's nodes do without what this imports.
    from ensemble.executors.cuda.cuda_engine import cuda_engine

    return cuda_engine(loaded, settings, int(args["model_instance_device_id"]))


def second_ranker_of(
    args: Mapping[str, str], loaded: LoadedBundle, settings: ServingSettings
) -> SecondRanker:
    """Return what one instance of the second ranker's node computes with, as `engine_of` chooses it. Raises
    `BundleError` if the bundle has no second ranker."""
    torch.set_num_threads(settings.threads)
    if args["model_instance_kind"] != "GPU":
        return CpuSecondRanker(*second_ranker_files(loaded), ServedItems.open(loaded, settings))
    from ensemble.executors.cuda.cuda_engine import cuda_second_ranker

    return cuda_second_ranker(loaded, settings, int(args["model_instance_device_id"]))
