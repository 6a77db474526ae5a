"""The GPU's engine, on a CPU without capture or compilation, against the CPU's engine and offline PyTorch."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ensemble.gpu.engine import GpuEngine, GpuOptions
from ensemble.history import HistoryNode
from ensemble.loaded_bundle import LoadedBundle
from ensemble.settings import ServingSettings
from tests.conftest import Exported
from tests.unit.node_chain import Chain, assert_same_answers, sources, stored, users_of_many_lengths
from tests.unit.stand_in_device import StandInAllocator


def eager(**options: Any) -> GpuOptions:
    chosen: dict[str, Any] = {"precision": "float32", "batches": (1, 4)}
    return GpuOptions(compiled=lambda function: function, capture=False, **(chosen | options))


@pytest.fixture
def make_gpu_chain(
    loaded: LoadedBundle, history_node: HistoryNode, tmp_path: Path
) -> Iterator[Callable[..., Chain]]:
    made: list[Chain] = []

    def make(pool_slots: int = 4, **options: Any) -> Chain:
        folder = tmp_path / f"gpu-{len(made)}"
        settings = ServingSettings(runtime_dir=folder, lease_ms=60_000, pool_slots=pool_slots)
        allocator = StandInAllocator()
        engines = [GpuEngine(loaded, allocator, eager(**options)) for _ in range(2)]
        made.append(Chain(loaded, settings, history_node, *engines))
        return made[-1]

    yield make
    for chain in made:
        chain.close()


def test_both_engines_answer_alike(
    make_gpu_chain: Callable[..., Chain], make_chain: Callable[..., Chain], exported: Exported
) -> None:
    request = stored(exported, users_of_many_lengths(exported)[:4])
    expected = make_chain()(request)
    chain = make_gpu_chain()
    for source in ("prefill", "prefix"):
        answers = chain(request)
        assert sources(answers) == [source] * 4
        assert_same_answers(answers, expected)
