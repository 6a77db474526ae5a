"""The `gpu` profile is the default one elsewhere, and is refused where there is no GPU."""

from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner

from commands.errors import NO_GPU
from commands.serve import serve
from ensemble.gpu_presence import NoGpuError
from ensemble.graph import MODEL_REPOSITORY, read_config
from ensemble.server.launcher import check_profile
from ensemble.server.server_error import ServerError
from tests.conftest import Exported

ON_THE_GPU = ("l2", "ranking", "retrieval", "retrieval_separate")
OF_DEVICES = ("instance_group", "parameters")


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> int:
    """As many as the test asks for."""
    count = int(request.param)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    return count


def test_the_nodes_with_a_model_have_the_profile() -> None:
    found = [path.parent.parent.name for path in MODEL_REPOSITORY.glob("*/configs/gpu.pbtxt")]
    assert sorted(found) == list(ON_THE_GPU)


@pytest.mark.parametrize("node", ON_THE_GPU)
def test_only_where_a_node_runs_differs(node: str) -> None:
    default, gpu = (
        read_config(MODEL_REPOSITORY / node / path) for path in ("config.pbtxt", "configs/gpu.pbtxt")
    )
    (group,) = gpu.instance_group
    assert (group.kind, group.count, list(group.gpus)) == (group.KIND_GPU, 1, [0])
    assert len(default.input) >= 3
    for name in OF_DEVICES:
        default.ClearField(name)
        gpu.ClearField(name)
    assert gpu == default


def test_a_profile_that_no_model_has_is_refused(tmp_path: Path) -> None:
    for profile in ("cpu", "gpu"):
        path = tmp_path / "ranking" / "configs" / f"{profile}.pbtxt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    check_profile("gpu", tmp_path)
    check_profile(None, tmp_path)
    with pytest.raises(ServerError, match=r"^--profile is tpu; allowed: cpu, gpu$"):
        check_profile("tpu", tmp_path)


@pytest.mark.parametrize("gpus", [0], indirect=True)
def test_the_gpu_profile_is_refused_without_a_gpu(gpus: int) -> None:
    assert gpus == 0
    with pytest.raises(
        NoGpuError,
        match=r"^--profile is gpu, which needs a GPU; PyTorch .* finds none\. Allowed: a host with",
    ):
        check_profile("gpu", MODEL_REPOSITORY)


@pytest.mark.parametrize("gpus", [1], indirect=True)
def test_the_gpu_profile_is_allowed_with_a_gpu(gpus: int) -> None:
    assert gpus == 1
    check_profile("gpu", MODEL_REPOSITORY)


@pytest.mark.parametrize("gpus", [0], indirect=True)
def test_the_command_refuses_it_in_one_line_and_with_a_code_of_its_own(gpus: int, exported: Exported) -> None:
    assert gpus == 0
    app = typer.Typer()
    app.command()(serve)
    result = CliRunner().invoke(app, ["--bundle", str(exported.bundle), "--profile", "gpu"])
    assert result.exit_code == NO_GPU
    assert result.output.startswith("--profile is gpu, which needs a GPU; ")
    assert result.output.endswith("or no --profile\n")
    assert result.output.count("\n") == 1
