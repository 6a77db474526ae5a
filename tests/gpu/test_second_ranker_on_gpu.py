"""The second ranker alone: answers against offline PyTorch on the host, and replayed graphs with launches."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from ensemble.executors.cuda.ranker_kernels import kernels_for
from ensemble.executors.cuda.second_ranker import GpuSecondRanker
from ensemble.executors.engines import second_ranker_of
from ensemble.loaded_bundle import LoadedBundle
from ensemble.settings import ServingSettings
from tests.conftest import ITEMS, NOW, Exported
from tests.support.ranked_shapes import (
    COUNTS,
    LENGTHS,
    candidates_of,
    random_model,
    requests_of,
    shapes_of,
)
from tests.support.second_rankers import mixed, with_second_ranker
from unipinrec.models.common.offline import OfflineRequest
from unipinrec.models.transact.offline import OfflineSecondRanker

NAMES = ("transact", "transact-v2")
GRAPHS = 2
"""One size of rows, for batches of 1 and 4."""
LARGEST = {torch.float32: 1e-4, torch.float16: 0.02}
"""Difference of a probability from the host's."""


def make(
    name: str, device: torch.device, *, dtype: torch.dtype = torch.float32, capture: bool = True
) -> GpuSecondRanker:
    model = random_model(name)
    return GpuSecondRanker(
        model, device, kernels_for(model, device, dtype), shapes=shapes_of(model), capture=capture
    )


def told(ranker: GpuSecondRanker) -> Counter[str]:
    """Samples by name, and by the value of their only label where they have one."""
    return Counter(
        {
            "/".join([sample.name, *sample.labels.values()]): int(sample.value)
            for family in ranker.collect()
            for sample in family.samples
        }
    )


@pytest.mark.parametrize("dtype", LARGEST, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_probabilities_are_those_of_offline_pytorch(
    name: str, dtype: torch.dtype, device: torch.device
) -> None:
    requests, candidates = requests_of(), candidates_of()
    right = OfflineSecondRanker(random_model(name)).action_probabilities(requests, candidates)
    found = make(name, device, dtype=dtype).action_probabilities(requests, candidates)
    for found_KA, right_KA in zip(found, right, strict=True):
        assert found_KA.shape == right_KA.shape
        assert np.allclose(found_KA, right_KA, rtol=0, atol=LARGEST[dtype])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", NAMES)
def test_a_bundles_second_ranker_answers_as_on_a_cpu(
    name: str, precision: str, exported: Exported, tmp_path: Path, device: torch.device
) -> None:
    loaded = LoadedBundle.open(with_second_ranker(exported, tmp_path, name).bundle)
    settings = ServingSettings.model_validate({"gpu_precision": precision})
    gpu = {"model_instance_kind": "GPU", "model_instance_device_id": str(device.index)}
    requests = [
        OfflineRequest(history=mixed(seed, length), request_time=NOW, surface=1)
        for seed, length in enumerate((0, 1, 40, 400, 2_500, 40_000))
    ]
    candidates = [np.random.default_rng(seed).permutation(ITEMS)[:128] for seed in range(len(requests))]
    found, right = (
        second_ranker_of(args, loaded, settings).action_probabilities(requests, candidates)
        for args in (gpu, {"model_instance_kind": "CPU"})
    )
    largest = LARGEST[torch.float32 if precision == "float32" else torch.float16]
    for found_KA, right_KA in zip(found, right, strict=True):
        assert np.allclose(found_KA, right_KA, rtol=0, atol=largest)


@pytest.mark.parametrize("name", NAMES)
def test_replayed_graphs_answer_as_launches_do_for_any_lengths(name: str, device: torch.device) -> None:
    graphs, launches = (make(name, device, capture=capture) for capture in (True, False))
    assert told(graphs)["unipinrec_cuda_graphs"] == GRAPHS
    assert told(launches)["unipinrec_cuda_graphs"] == 0
    draw = np.random.default_rng(1)
    for seed in range(10):
        order = draw.permutation(len(LENGTHS))
        requests = requests_of([LENGTHS[place] for place in order], seed)
        candidates = candidates_of(draw.permutation(COUNTS).tolist(), seed)
        for found_KA, right_KA in zip(
            graphs.action_probabilities(requests, candidates),
            launches.action_probabilities(requests, candidates),
            strict=True,
        ):
            assert np.allclose(found_KA, right_KA, rtol=0, atol=1e-6)
    assert told(graphs)["unipinrec_launches_total/eager"] == 0
    assert told(graphs)["unipinrec_launches_total/graph"] > 0


@pytest.mark.parametrize("name", NAMES)
def test_a_replay_allocates_no_device_memory(name: str, device: torch.device) -> None:
    ranker, candidates = make(name, device), candidates_of()
    ranker.action_probabilities(requests_of(), candidates)
    before = torch.cuda.memory_stats(device)["allocation.all.allocated"]
    for seed in range(5):
        ranker.action_probabilities(requests_of(seed=seed), candidates)
    assert torch.cuda.memory_stats(device)["allocation.all.allocated"] == before
