"""`unipinrec policy train` turns a log into a policy, and says in one line why it cannot."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from commands.app import app
from commands.policy.train import cohort_rules
from tests.support.explored import explored_dataset, explored_log
from unipinrec.models.policy.config import CohortRule
from unipinrec.training.checkpoint import fingerprint


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("policy")
    log, _ = explored_log(explored_dataset(folder / "data"), 300)
    log.save(folder / "log")
    return folder


def train(data: Path, out: Path, *options: str) -> tuple[int, list[str]]:
    paths = ["--dataset", str(data / "data"), "--log", str(data / "log"), "--out", str(out)]
    result = CliRunner().invoke(app, ["policy", "train", *paths, "--device", "cpu", *options])
    return result.exit_code, (result.stdout or result.stderr).strip().splitlines()


def test_a_log_becomes_a_policy_whose_cohorts_are_the_papers(data: Path, tmp_path: Path) -> None:
    code, lines = train(data, tmp_path / "out", "--epochs", "1", "--evaluation-share", "0.25")
    assert code == 0
    checkpoint = tmp_path / "out" / "epoch-0001"
    assert lines[0].endswith(" explored synthetic requests to train on, 68 later ones kept")
    assert lines[-1] == f"checkpoint {checkpoint}, policy {fingerprint(checkpoint)[:12]}"
    state = json.loads((checkpoint / "state.json").read_text())
    assert state["spec"] == "policy"
    assert state["training"]["evaluation_share"] == 0.25
    assert state["model"]["cohorts"] == [
        {"name": "core", "action": "save", "days": 4, "window_days": 28},
        {"name": "casual", "action": None, "days": 4, "window_days": 28},
    ]
    # What is whole is not trained again.
    assert train(data, tmp_path / "out", "--epochs", "1", "--evaluation-share", "0.25")[1][-1] == lines[-1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--batch-size", "1"], "batch_size is 1; allowed: greater than or equal to 2"),
        (["--evaluation-share", "1"], "evaluation_share is 1.0; allowed: less than 1"),
        (["--cohorts", "core"], "cohort is 'core'; allowed: NAME=ACTION:DAYS/WINDOW, as core=save:4/28"),
        (
            ["--cohorts", "core=like:1/2"],
            "action of cohort core is like; allowed: click, save, share",
        ),
        (["--device", "tpu"], "device is tpu; allowed here: cpu"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_one_line(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], message: str
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert train(data, tmp_path / "out", *options) == (2, [message])
    assert not (tmp_path / "out").exists()


def test_unipinrec_train_says_which_command_trains_a_policy(data: Path, tmp_path: Path) -> None:
    options = ["--dataset", str(data / "data"), "--out", str(tmp_path), "--model", "policy"]
    result = CliRunner().invoke(app, ["train", *options])
    assert (result.exit_code, result.stderr.strip()) == (
        2,
        "model is policy, which `unipinrec policy train` trains",
    )


def test_unipinrec_train_offers_no_model_of_another_command() -> None:
    result = CliRunner().invoke(app, ["train", "--help"], env={"COLUMNS": "160"})
    assert "Model: unified, interleaved, sasrec, transact, transact-v2." in result.stdout


def test_cohorts_are_read_in_their_order() -> None:
    assert cohort_rules("") == ()
    assert cohort_rules("core=save:4/28, casual=any:2/7") == (
        CohortRule(name="core", action="save", days=4, window_days=28),
        CohortRule(name="casual", action=None, days=2, window_days=7),
    )
