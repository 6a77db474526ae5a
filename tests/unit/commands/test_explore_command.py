"""Pages that cannot be opened are refused before anything listens."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from commands.app import app
from ensemble.settings import ROOT


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--url", "a:1"] * 3, "--url is given 3 times; allowed: 1 to 2"),
        (["--url", "nowhere"], "url is 'nowhere'; allowed: host:port"),
        (["--timeout", "0"], "timeout_s is 0.0; allowed: more than 0"),
        (
            ["--url", "a:1", "--url", "b:1", "--metrics-url", "http://a:2/metrics"],
            "--metrics-url is given 1 times; allowed: 2, one for each --url",
        ),
        (["--address", "192.0.2.1"], "--address is 192.0.2.1 and --port is 8501: "),
        (["--metrics-url", "http://a:2"], "--metrics-url is http://a:2; allowed: http://host:port/metrics"),
    ],
)
def test_an_address_is_refused_with_its_value_and_what_is_allowed(options: list[str], said: str) -> None:
    result = CliRunner().invoke(app, ["explore", *options])
    assert result.exit_code == 2
    assert said in result.stderr


def test_a_port_that_is_taken_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = CliRunner().invoke(app, ["explore", "--port", str(port)])
    assert result.exit_code == 2
    assert f"--port is {port}: Address already in use; allowed: " in result.stderr


def test_a_folder_that_is_no_dataset_is_refused(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["explore", "--dataset", str(tmp_path)])
    assert result.exit_code == 2
    assert str(tmp_path) in result.stderr
    assert "Traceback" not in result.stderr


def test_without_the_extra_the_error_says_how_to_install_it() -> None:
    code = "import sys; sys.modules['streamlit'] = None; from commands.explore import explore; explore()"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert "streamlit is not installed" in found.stderr
    assert "make install" in found.stderr
    assert ".[explore]" in found.stderr
