"""`unipinrec eval` says in one line what is wrong before it trains anything."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from commands.app import app


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["nonsense"],
            "dataset is nonsense; allowed: movielens, amazon, kuairand, ebnerd, mind, simulator, lifelong, "
            "policy, gate, rivals",
        ),
        (["kuairand", "--only", "magic"], "variant is magic; allowed: unipinrec, ranking_only, transact"),
        (
            ["kuairand", "--ablations"],
            "dataset is kuairand; allowed with --ablations: simulator, lifelong",
        ),
        (["amazon", "--tuning"], "dataset is amazon; allowed with --tuning alone: kuairand, ebnerd, mind"),
        (
            ["movielens", "--seeds", "1,a"],
            "seeds is 1,a; allowed: whole numbers from 0 on, with commas between",
        ),
        (["movielens", "--seeds=-1"], "seeds is -1; allowed: whole numbers from 0 on, with commas between"),
    ],
)
def test_what_cannot_be_compared_is_refused(arguments: list[str], message: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["eval", *arguments, "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert result.stderr.strip() == message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("dataset", ["movielens", "amazon", "kuairand", "ebnerd", "mind"])
def test_a_dataset_that_is_missing_is_prepared_from_local_files(dataset: str, tmp_path: Path) -> None:
    absent = tmp_path / "absent"
    arguments = ["--path", str(absent), "--data", str(tmp_path / "data"), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, ["eval", dataset, *arguments])
    assert result.exit_code == 2
    assert result.stderr == f"path is {absent}; allowed: a file or folder that exists\n"
