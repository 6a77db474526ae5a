"""Loads that no run can make are refused before a server is started."""

import pytest
from typer.testing import CliRunner

from commands.app import app


@pytest.mark.parametrize("command", ["loadtest", "soak"])
@pytest.mark.parametrize(("rate", "said"), [("inf", "inf"), ("nan", "nan"), ("0", "0"), ("2e5", "200000")])
def test_a_rate_is_refused_with_its_value_and_what_is_allowed(command: str, rate: str, said: str) -> None:
    result = CliRunner().invoke(app, [command, "--rate", rate], env={"COLUMNS": "120"})
    assert result.exit_code == 2
    assert f"--rate is {said}; allowed: 0.1 to 100,000" in result.stderr


@pytest.mark.parametrize(
    ("command", "option"),
    [("loadtest", "--seconds"), ("loadtest", "--warm-up"), ("capacity", "--seconds"), ("soak", "--minutes")],
)
def test_a_length_without_an_end_is_refused(command: str, option: str) -> None:
    result = CliRunner().invoke(app, [command, option, "inf"], env={"COLUMNS": "120"})
    assert result.exit_code == 2
    assert f"Invalid value for '{option}'" in result.stderr
