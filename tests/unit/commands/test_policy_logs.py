"""`unipinrec policy` makes exploration logs, and says in one line what is wrong with one."""

import json
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from commands.app import app
from tests.support.simulated import SMALL
from tests.unit.data.test_exploration_log import ARMS, ROWS
from tests.unit.data.test_explored_answers import ANSWERS, answers_file, feedback_file
from unipinrec.data.exploration import ExplorationLog
from unipinrec.simulator import prepare_simulation
from unipinrec.simulator.exploration import load_expected


def run(*arguments: str | Path) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["policy", *map(str, arguments)])
    return result.exit_code, result.stdout, result.stderr


def refused(*arguments: str | Path) -> str:
    code, _, stderr = run(*arguments)
    assert code == 2
    assert stderr.count("\n") == 1
    return stderr.removesuffix("\n")


@pytest.fixture
def arms(tmp_path: Path) -> Path:
    (tmp_path / "arms.json").write_text(ARMS.model_dump_json())
    return tmp_path / "arms.json"


def test_a_simulated_log_is_synthetic_repeatable_and_has_its_truth(tmp_path: Path) -> None:
    world = SMALL.model_copy(update={"users": 60, "items": 600})
    prepare_simulation(tmp_path / "data", world, lambda _: None)
    options = ("--dataset", tmp_path / "data", "--share", "0.1", "--production-share", "0.05", "--seed", "5")
    code, stdout, _ = run("simulate", *options, "--out", tmp_path / "log")
    log = ExplorationLog.load(tmp_path / "log")
    explored = int(log.explored_R.sum())
    assert code == 0
    assert stdout.endswith(
        f"{len(log)} synthetic requests written to {tmp_path / 'log'}, {explored} of them explored\n"
    )
    assert log.info.synthetic
    assert len(load_expected(tmp_path / "log")) == len(log)
    run("simulate", *options, "--out", tmp_path / "again")
    assert ExplorationLog.load(tmp_path / "again").table().equals(log.table())
    assert refused("simulate", *options, "--out", tmp_path).endswith("which exists; allowed: a new folder")
    assert refused("simulate", *options, "--share", "0", "--out", tmp_path / "none").startswith(
        "share is 0.0; allowed: greater than 0"
    )
    other = json.loads(log.info.arms.model_dump_json())
    other["varied"][0]["steps"] = 3
    (tmp_path / "arms.json").write_text(json.dumps(other))
    run("simulate", *options, "--arms", tmp_path / "arms.json", "--out", tmp_path / "coarse")
    assert load_expected(tmp_path / "coarse").shape[1] == 3 * 7 + 1
    none = refused("simulate", "--dataset", tmp_path / "log", "--out", tmp_path / "none")
    assert none.startswith(f"dataset {tmp_path / 'log'} has no dataset.json; allowed: ")
    missing = refused("simulate", *options, "--arms", tmp_path / "none.json", "--out", tmp_path / "none")
    assert missing == f"{tmp_path / 'none.json'}: No such file or directory"


def test_a_log_of_ones_own_is_imported_or_refused_by_its_row(arms: Path, tmp_path: Path) -> None:
    pl.DataFrame(ROWS).write_csv(tmp_path / "log.csv")
    options = ("--arms", arms, "--out", tmp_path / "shop")
    code, stdout, _ = run("import", "--log", tmp_path / "log.csv", *options)
    assert (code, stdout) == (0, f"4 requests written to {tmp_path / 'shop'}, 3 of them explored\n")
    info = ExplorationLog.load(tmp_path / "shop").info
    assert (info.name, info.synthetic, info.arms) == ("shop", False, ARMS)

    pl.DataFrame(ROWS | {"reward_save": [0, 0, 2, 0]}).write_csv(tmp_path / "log.csv")
    options = ("--arms", arms, "--out", tmp_path / "other")
    line = refused("import", "--log", tmp_path / "log.csv", *options)
    assert line == "reward_save is 2.0 in row 3; allowed: 0 to 1"
    missing = refused("import", "--log", tmp_path / "none.csv", *options)
    assert missing == f"file is {tmp_path / 'none.csv'}; allowed: a file or folder that exists"
    arms.write_text(json.dumps({"actions": ["click"]}))
    line = refused("import", "--log", tmp_path / "log.csv", *options)
    assert (
        line
        == f"file {arms}: actions is ['click']; Tuple should have at least 2 items after validation, not 1"
    )


def test_answers_and_feedback_are_joined_and_what_is_left_out_is_told(arms: Path, tmp_path: Path) -> None:
    answers, feedback = answers_file(tmp_path, ANSWERS), feedback_file(tmp_path)
    options = ("--answers", answers, "--feedback", feedback, "--arms", arms)
    code, stdout, _ = run("join", *options, "--out", tmp_path / "log")
    assert code == 0
    assert stdout == (
        "2 answers did not explore; 2 rows of feedback have no answer, 1 are on items that were not served\n"
        f"2 requests written to {tmp_path / 'log'}, 2 of them explored\n"
    )
    assert ExplorationLog.load(tmp_path / "log").request_id_R.tolist() == ["batch/7", "late"]
    answers.write_text("{}\n")
    line = refused("join", *options, "--out", tmp_path / "other")
    assert line == f"file {answers}, line 1: request_id is missing"
    assert refused("join", *options, "--out", tmp_path / "log") == (
        f"folder is {tmp_path / 'log'}, which exists; allowed: a new folder"
    )
