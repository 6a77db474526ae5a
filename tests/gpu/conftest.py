"""What tests on a GPU share; without one, each is skipped and says why."""

import gc
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from ensemble.executors.cuda.cuda_engine import set_up_compiler
from ensemble.gpu_presence import NoGpuError, require_gpu
from ensemble.loaded_bundle import LoadedBundle
from ensemble.server.embedded_server import EmbeddedServer
from ensemble.settings import ServingSettings
from tests.conftest import Exported, serving

LEAK_BYTES = 64 << 20
"""Device memory that may be gone after a test: less than anything that a test could leak."""
SETTLING_S = 20.0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    try:
        require_gpu("tests/gpu compares what a GPU computes", "")
    except NoGpuError as error:
        here = Path(__file__).parent
        for item in items:
            if here in item.path.parents:
                item.add_marker(pytest.mark.skip(reason=str(error)))


@pytest.fixture(scope="session", autouse=True)
def _shared_programs() -> None:
    """What these tests compile, the servers that they start need not compile again."""
    os.environ.update(ServingSettings().compiler_environment())


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The first GPU, computing float32 without shortcuts."""
    torch.backends.cuda.matmul.allow_tf32 = False
    set_up_compiler()
    return torch.device("cuda", 0)


@pytest.fixture(scope="session")
def loaded(exported: Exported) -> LoadedBundle:
    return LoadedBundle.open(exported.bundle)


@pytest.fixture(scope="session")
def gpu_server(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """A server as it is on a GPU by default, in bfloat16."""
    log_path = tmp_path_factory.mktemp("log") / "server.log"
    with serving(exported, log_path, profile="gpu", gpu_precision="bfloat16") as server:
        yield server


class DeviceMemoryWatch:
    """Free memory of the whole GPU, other processes' included, before and after."""

    def __init__(self) -> None:
        self._before = _free()

    @property
    def missing(self) -> int:
        """Bytes that are gone, once memory on its way back has arrived."""
        deadline = time.monotonic() + SETTLING_S
        while (missing := self._before - _free()) > LEAK_BYTES and time.monotonic() < deadline:
            time.sleep(0.25)
        return missing


def _free() -> int:
    gc.collect()
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(0)
    return free


@pytest.fixture
def device_memory(device: torch.device) -> DeviceMemoryWatch:
    """From now on."""
    torch.ones(1, device=device)
    return DeviceMemoryWatch()
