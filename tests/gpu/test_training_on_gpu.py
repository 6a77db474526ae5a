"""Training on a GPU: the same draws as on a CPU, so the same losses up to rounding."""

from pathlib import Path

import pytest
import torch

pytest.importorskip("tensorboard")

from tests.support.clusters import cluster_dataset
from tests.support.shared_training import LOSSES, curves, run
from unipinrec.training.hardware import Hardware, Precision


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpu-training") / "data"
    cluster_dataset(folder, users=49)
    return folder


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 0.01), ("bf16", 0.05)])
def test_a_gpu_reaches_the_losses_of_a_cpu(
    device: torch.device, data: Path, tmp_path: Path, name: str, precision: Precision, tolerance: float
) -> None:
    run(name, data, tmp_path / "cpu", Hardware())
    run(name, data, tmp_path / "gpu", Hardware(device=device, precision=precision))
    expected, found = curves(tmp_path / "cpu"), curves(tmp_path / "gpu")
    assert found.keys() == expected.keys()
    for loss, values in expected.items():
        assert found[loss] == pytest.approx(values, rel=tolerance)
