"""Nodes and pools for one test or one module, closed at its end."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ensemble.kv.pool import KVPool, PoolDirectory
from ensemble.kv.shared_memory import SharedMemory
from ensemble.kv.slot_storage import PoolMemory
from ensemble.loaded_bundle import LoadedBundle
from ensemble.nodes.history import HistoryNode
from ensemble.settings import ServingSettings
from tests.conftest import Exported
from tests.support.node_chain import Chain
from tests.support.pool_content import MINUTE_MS, MakeDirectory, ReaderOf, layout, mapped
from tests.support.stand_in_device import StandInPools, eager_engine


@pytest.fixture(scope="module")
def loaded(exported: Exported) -> LoadedBundle:
    return LoadedBundle.open(exported.bundle)


@pytest.fixture(scope="module")
def history_node(loaded: LoadedBundle, exported: Exported) -> Iterator[HistoryNode]:
    """One for the module: a process may open a history store once."""
    node = HistoryNode(loaded, ServingSettings(histories=exported.histories))
    yield node
    node.close()


@pytest.fixture
def make_chain(
    loaded: LoadedBundle, history_node: HistoryNode, tmp_path: Path
) -> Iterator[Callable[..., Chain]]:
    made: list[Chain] = []

    def make(**settings: Any) -> Chain:
        folder = tmp_path / f"runtime-{len(made)}"
        chosen = ServingSettings(runtime_dir=folder, lease_ms=60_000, **settings)
        made.append(Chain(loaded, chosen, history_node))
        return made[-1]

    yield make
    for chain in made:
        chain.close()


@pytest.fixture
def make_gpu_chain(
    loaded: LoadedBundle, history_node: HistoryNode, tmp_path: Path
) -> Iterator[Callable[..., Chain]]:
    """Chains whose nodes compute as on a GPU; `options` are those of `eager_engine`."""
    made: list[Chain] = []

    def make(pool_slots: int = 4, **options: Any) -> Chain:
        folder = tmp_path / f"gpu-{len(made)}"
        chosen = ServingSettings(runtime_dir=folder, lease_ms=60_000, pool_slots=pool_slots)
        engines = [eager_engine(loaded, **options) for _ in range(2)]
        made.append(Chain(loaded, chosen, history_node, *engines))
        return made[-1]

    yield make
    for chain in made:
        chain.close()


@pytest.fixture(params=["make_chain", "make_gpu_chain"], ids=["cpu", "gpu"])
def make_any_chain(request: pytest.FixtureRequest) -> Callable[..., Chain]:
    make: Callable[..., Chain] = request.getfixturevalue(request.param)
    return make


@pytest.fixture(scope="module")
def long_lived(
    loaded: LoadedBundle, history_node: HistoryNode, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Chain]:
    settings = ServingSettings(runtime_dir=tmp_path_factory.mktemp("runtime"), lease_ms=60_000)
    chain = Chain(loaded, settings, history_node)
    yield chain
    chain.close()


@pytest.fixture(params=[SharedMemory, StandInPools], ids=["shared", "device"])
def memory(request: pytest.FixtureRequest) -> PoolMemory:
    made: PoolMemory = request.param()
    return made


@pytest.fixture
def make_pool(tmp_path: Path, memory: PoolMemory) -> Iterator[Callable[..., KVPool]]:
    made: list[KVPool] = []

    def make(slots: int = 2, lease_ms: int = MINUTE_MS, instance: str = "retrieval_0") -> KVPool:
        made.append(KVPool(tmp_path, instance, layout(slots), lease_ms, memory))
        return made[-1]

    yield make
    for pool in made:
        pool.close()


@pytest.fixture
def make_directory(tmp_path: Path, memory: PoolMemory) -> MakeDirectory:
    return lambda: PoolDirectory(tmp_path, memory)


@pytest.fixture
def reader_of(tmp_path: Path, memory: PoolMemory) -> ReaderOf:
    return lambda handle: mapped(tmp_path, handle, memory)
