"""A bundle in which anything is wrong is refused before a node starts, in a line that names the file."""

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from commands.bundle import app
from ensemble.bundle_check.bounded import check_bundle_bounded
from ensemble.bundle_check.process import refusal_of
from ensemble.server.launcher import check_bundle
from ensemble.server.server_error import BundleRefusedError
from tests.conftest import Exported
from tests.support.corrupt_bundles import Case, cases, make_bases
from unipinrec.bundle import INDEX_KINDS, BundleError

CASES = list(cases())
SERVED = CASES[3::27]
"""Some of each kind, for what takes seconds."""


@pytest.fixture(scope="module")
def bases(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_bases(exported, tmp_path_factory.mktemp("bases"))


def test_there_are_as_many_cases_as_are_claimed() -> None:
    assert len(CASES) >= 200
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("base", ["all", *INDEX_KINDS[1:]])
def test_a_sound_bundle_is_not_refused(bases: dict[str, Path], base: str) -> None:
    told: list[str] = []
    assert refusal_of(bases[base], told.append) is None
    assert "unified/ranking_head.pt" in told


@pytest.mark.parametrize("case", [case for case in CASES if not case.alone], ids=lambda case: case.name)
def test_it_is_refused_by_the_name_of_the_file(bases: dict[str, Path], tmp_path: Path, case: Case) -> None:
    refused = refusal_of(case.make(bases, tmp_path), lambda _: None)
    assert refused is not None
    assert case.file in refused
    assert "\n" not in refused
    assert len(refused) < 600


def test_the_command_tells_which_bundle_may_be_served_and_which_not(
    bases: dict[str, Path], tmp_path: Path
) -> None:
    sound = CliRunner().invoke(app, ["check", str(bases["all"])])
    assert (sound.exit_code, sound.output) == (0, f"{bases['all'].name} may be served\n")
    (case,) = [case for case in CASES if case.name == "items with a vector NaN"]
    refused = CliRunner().invoke(app, ["check", str(case.make(bases, tmp_path))])
    assert refused.exit_code == 2
    assert refused.output == (
        f"bundle {tmp_path / bases['all'].name}: items.safetensors: length of vector_VE of row 3 is nan; "
        "allowed: 1, of finite numbers\n"
    )


def test_what_holds_up_its_check_is_refused(bases: dict[str, Path], tmp_path: Path) -> None:
    (case,) = [case for case in CASES if case.name == "a graph without end"]
    with pytest.raises(BundleError, match=r"\.(pt|json|faiss|safetensors) is not checked within 15 s$"):
        check_bundle_bounded(case.make(bases, tmp_path), timeout_s=15.0)


@pytest.mark.long
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_launcher_refuses_it(
    bases: dict[str, Path], tmp_path: Path, case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ensemble.bundle_check.bounded.START_S", 60.0)
    with pytest.raises(BundleRefusedError) as refused:
        check_bundle(case.make(bases, tmp_path))
    assert case.file in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.long
@pytest.mark.parametrize("case", SERVED, ids=lambda case: case.name)
def test_serving_it_ends_with_a_line_and_exit_code_2(
    bases: dict[str, Path], tmp_path: Path, case: Case
) -> None:
    bundle, log = case.make(bases, tmp_path), tmp_path / "server.log"
    command = [sys.executable, "-m", "commands.serve", "--bundle", str(bundle), "--log", str(log)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.count("\n") == 1
    assert case.file in ended.stderr
    assert not log.exists()
