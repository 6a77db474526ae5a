"""`unipinrec train` trains any model, and says in one line what is wrong before it trains."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from commands.app import app
from tests.support.clusters import cluster_dataset


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("train") / "data"
    cluster_dataset(folder, users=12)
    return folder


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "magic"], "model is 'magic'; allowed: unified, interleaved, sasrec, policy"),
        (["--preset", "huge"], "preset is 'huge'; allowed: tiny, demo, bench-cpu, paper"),
        (["--device", "tpu"], "device is tpu; allowed here: cpu"),
        (["--precision", "fp8"], "precision is fp8; allowed on cpu: float32, bf16"),
        (["--batch-size", "0"], "batch_size is 0; allowed: greater than or equal to 1"),
    ],
)
def test_what_cannot_be_trained_is_refused(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    out = tmp_path / "out"
    result = CliRunner().invoke(app, ["train", "--dataset", str(data), "--out", str(out), *arguments])
    assert (result.exit_code, result.stderr.strip()) == (2, message)
    assert not out.exists()


def test_a_baseline_is_trained_and_not_exported(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "sasrec"
    options = ["--model", "sasrec", "--preset", "tiny", "--epochs", "1", "--workers", "1", "--device", "cpu"]
    result = CliRunner().invoke(app, ["train", "--dataset", str(data), "--out", str(out), *options])
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1] == f"checkpoint {out / 'epoch-0001'}"
    state = json.loads((out / "epoch-0001" / "state.json").read_text())
    assert (state["spec"], state["training"]["full_softmax"]) == ("sasrec", True)
    exported = ["export", "--training", str(out), "--dataset", str(data), "--bundles", str(tmp_path / "b")]
    result = CliRunner().invoke(app, exported)
    assert result.exit_code == 2
    assert result.stderr.strip() == f"{out / 'epoch-0001'} holds the model sasrec, which is not served"
