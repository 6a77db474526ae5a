"""Two processes learn what one learns: the loss of a batch does not depend on how many share it."""

import json
import shutil
import socket
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.support.clusters import cluster_dataset
from tests.support.shared_training import EPOCHS, LOSSES, curves, run, run_together
from unipinrec.models.common.objective import Part, Share
from unipinrec.training.hardware import Hardware

USERS = 49
"""Batches of 16, and one of a single user, of which one process has nothing."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shared") / "data"
    cluster_dataset(folder, USERS)
    return folder


@pytest.fixture(scope="module")
def together(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes left."""
    folder = tmp_path_factory.mktemp("together")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(run_together, (2, port, data, folder), nprocs=2)
    return folder


@pytest.mark.parametrize("name", LOSSES)
def test_two_processes_reach_the_losses_of_one(together: Path, data: Path, tmp_path: Path, name: str) -> None:
    alone = run(name, data, tmp_path, Hardware())
    expected, found = curves(tmp_path), curves(together / name)
    assert found.keys() == expected.keys()
    for loss, values in expected.items():
        assert len(values) == EPOCHS
        assert found[loss] == pytest.approx(values, abs=1e-4)
    one, other = (load_file(path / "model.safetensors") for path in (alone, together / name / alone.name))
    torch.testing.assert_close(other, one, atol=1e-3, rtol=0)


def test_an_interruption_of_two_processes_changes_nothing(together: Path) -> None:
    for file in ("model.safetensors", "optimizer.safetensors"):
        cut, whole = (load_file(together / name / "epoch-0004" / file) for name in ("cut", "unified"))
        assert cut.keys() == whole.keys()
        assert all(torch.equal(cut[name], whole[name]) for name in whole)


def test_one_process_goes_on_where_two_stopped(together: Path, data: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(together / "left", tmp_path / "left")
    assert (folder / "epoch-0002").is_dir()
    resumed = run("unified", data, folder, Hardware())
    state, whole = (
        json.loads((path / "state.json").read_text())
        for path in (resumed, together / "unified" / resumed.name)
    )
    assert state.pop("metrics") == pytest.approx(whole.pop("metrics"), abs=1e-4)
    assert state == whole


def test_one_process_alone_writes(together: Path) -> None:
    for name in LOSSES:
        assert len(list((together / name / "tensorboard").iterdir())) == 1
        assert {path.name for path in (together / name).iterdir()} == {"tensorboard", "epoch-0004"}


@pytest.mark.parametrize("examples", [1, 2, 3, 7, 16])
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_every_example_counts_in_one_process(examples: int, processes: int) -> None:
    parts = [Share(index, processes).part(examples) for index in range(processes)]
    counted = [row for part in parts if part.counted for row in range(examples)[part.rows]]
    assert counted == list(range(examples))
    assert all(len(range(examples)[part.rows]) >= 1 for part in parts)
    assert Share(0, 2).part(1) == Part(slice(0, 1), False)
