"""`unipinrec train` trains any model, and says in one line what is wrong before it trains."""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
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
        (
            ["--model", "magic"],
            "model is 'magic'; allowed: unified, interleaved, sasrec, policy, transact, transact-v2",
        ),
        (["--model", "policy"], "model is policy, which `unipinrec policy train` trains"),
        (["--vectors", "somewhere"], "vectors is somewhere; model unified takes none"),
        (
            ["--model", "transact-v2"],
            "vectors is missing; model transact-v2 needs a checkpoint with item vectors",
        ),
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


def test_the_second_rankers_are_trained_the_second_by_the_firsts_vectors(data: Path, tmp_path: Path) -> None:
    def trained(model: str, *more: str) -> dict[str, Any]:
        out = tmp_path / model
        options = ["--model", model, "--preset", "tiny", "--epochs", "1", "--device", "cpu", *more]
        result = CliRunner().invoke(app, ["train", "--dataset", str(data), "--out", str(out), *options])
        assert result.exit_code == 0, result.stderr
        state: dict[str, Any] = json.loads((out / "epoch-0001" / "state.json").read_text())
        return state

    first = trained("transact")
    assert (first["training"]["batch_size"], first["training"]["time_window_s"]) == (32, 86_400)
    by_folder = trained("transact-v2", "--vectors", str(tmp_path / "transact"))
    (tmp_path / "transact-v2").rename(tmp_path / "by-folder")
    second = trained("transact-v2", "--vectors", str(tmp_path / "transact" / "epoch-0001"))
    assert second["dataset"] == by_folder["dataset"]
    assert second["model"]["content_dim"] == first["model"]["content_dim"] + 8
    assert second["model"]["search_dim"] == first["model"]["item_dim"] == 8
    assert second["dataset"].keys() - first["dataset"].keys() == {"given_vectors"}
    weights = load_file(tmp_path / "transact-v2" / "epoch-0001" / "model.safetensors")
    assert weights["model.search_VW"].abs().max() > 0


def test_vectors_of_no_checkpoint_are_refused(data: Path, tmp_path: Path) -> None:
    options = ["--dataset", str(data), "--model", "transact-v2", "--vectors", str(tmp_path / "nothing")]
    result = CliRunner().invoke(app, ["train", *options, "--out", str(tmp_path / "v2")])
    assert result.exit_code == 2
    told = f"vectors is {tmp_path / 'nothing'}, which holds no checkpoint; run `unipinrec train`"
    assert result.stderr.strip() == told


def test_vectors_of_another_dataset_are_refused(data: Path, tmp_path: Path) -> None:
    cluster_dataset(tmp_path / "other", users=8)
    command = ["train", "--dataset", str(tmp_path / "other"), "--preset", "tiny", "--epochs", "1"]
    out = tmp_path / "transact"
    assert CliRunner().invoke(app, [*command, "--model", "transact", "--out", str(out)]).exit_code == 0
    checkpoint = out / "epoch-0001"
    options = ["--dataset", str(data), "--model", "transact-v2", "--vectors", str(checkpoint)]
    result = CliRunner().invoke(app, ["train", *options, "--out", str(tmp_path / "v2")])
    assert result.exit_code == 2
    assert result.stderr.strip() == f"{checkpoint} was trained with another dataset than clusters"


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
