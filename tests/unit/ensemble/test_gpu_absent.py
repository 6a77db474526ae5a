"""What a host without a GPU meets of the code for one."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ensemble.executors.engines import engine_of, second_ranker_of
from ensemble.gpu_presence import NoGpuError
from ensemble.kv.cuda.cuda_memory import CudaAllocator, CudaError
from ensemble.loaded_bundle import LoadedBundle
from ensemble.settings import ServingSettings

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="this host has a GPU")

NO_GPU = (
    rf"^instance_group names GPU 3, which needs a GPU; PyTorch {re.escape(torch.__version__)} finds none\. "
    r"Allowed: a host with an NVIDIA GPU and PyTorch's build for CUDA, or no --profile$"
)


def run(*lines: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True
    )
    return done.stdout


def test_the_cpus_nodes_need_no_cuda_bindings() -> None:
    """PyTorch imports them where they are installed, so they are made to look as if they were not."""
    printed = run(
        "import sys",
        "sys.modules['cuda'] = None",
        "import ensemble.executors.engines",
        "import ensemble.nodes.retrieval, ensemble.nodes.ranking, ensemble.nodes.l2",
        "print(sorted(name for name in sys.modules if name.startswith('ensemble.') and '.cuda' in name))",
        "print('unipinrec.models.transact.kernels' in sys.modules)",
        "import ensemble.executors.cuda.engine",
    )
    assert printed == "[]\nFalse\n"


@pytest.mark.parametrize("node", ["history", "ann"])
def test_nodes_that_compute_nothing_with_it_need_no_pytorch(node: str) -> None:
    printed = run(
        "import sys", f"import ensemble.nodes.node, ensemble.nodes.{node}", "print('torch' in sys.modules)"
    )
    assert printed == "False\n"


@pytest.mark.parametrize("node", ["retrieval", "ranking", "l2"])
def test_nodes_that_rank_need_no_library_for_datasets(node: str) -> None:
    printed = run("import sys", f"import ensemble.nodes.{node}", "print('polars' in sys.modules)")
    assert printed == "False\n"


def test_importing_everything_for_a_gpu_touches_none() -> None:
    printed = run(
        "import importlib, pkgutil, ensemble, torch",
        "for module in pkgutil.walk_packages(ensemble.__path__, 'ensemble.'):",
        "    if '.cuda.' in module.name:",
        "        importlib.import_module(module.name)",
        "print(torch.cuda.is_initialized())",
    )
    assert printed == "False\n"


def test_device_memory_is_refused_with_the_name_of_what_failed(tmp_path: Path) -> None:
    allocator = CudaAllocator(torch.device("cuda", 0))
    refusal = r"^cudaSetDevice: cudaError(InsufficientDriver|NoDevice)$"
    with pytest.raises(CudaError, match=refusal):
        allocator.allocate(64, tmp_path)
    with pytest.raises(CudaError, match=refusal):
        allocator.open("00" * 64, 64)


@pytest.mark.parametrize("make", [engine_of, second_ranker_of])
def test_an_instance_on_a_gpu_says_in_one_line_what_is_missing(
    make: Callable[..., object], loaded: LoadedBundle
) -> None:
    args = {"model_instance_kind": "GPU", "model_instance_device_id": "3"}
    with pytest.raises(NoGpuError, match=NO_GPU):
        make(args, loaded, ServingSettings())
