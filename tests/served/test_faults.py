"""Under load, a kill of each kind makes no answer wrong: the short form of `unipinrec bench faults`."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from commands.bench.app import app

FAULTS = ("history killed", "ranking stopped", "server killed", "launcher killed, a node stopped")


@pytest.mark.long
@pytest.mark.timeout(900)
def test_answers_stay_right_while_processes_are_killed_and_stopped(tmp_path: Path) -> None:
    windows = ["--node-window=8", "--server-window=20", "--rate=20", "--repeats=1"]
    chosen = [part for fault in FAULTS for part in ("--only", fault)]
    result = CliRunner().invoke(app, ["faults", *windows, *chosen, "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    trials = json.loads((tmp_path / "faults.json").read_text())["trials"]
    assert trials.keys() == set(FAULTS)
    for (trial,) in trials.values():
        # How long it takes is the machine's: the long form tells.
        assert trial["compared"] > 0
        assert trial["wrong"] == 0
    assert trials["launcher killed, a node stopped"][0]["clean_s"] is not None


def test_a_fault_that_there_is_not_is_refused() -> None:
    result = CliRunner().invoke(app, ["faults", "--only", "moon killed"])
    assert result.exit_code == 2
    assert "only is moon killed; allowed: history killed, " in result.output
