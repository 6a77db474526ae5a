"""`gpu-check` says in one line that there is no GPU, and fails when one of its runs does."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
import typer
from click.testing import Result
from typer.testing import CliRunner

from commands import gpu_check as subject
from commands.errors import NO_GPU
from ensemble.settings import ROOT


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Result, list[Sequence[str]]]]:
    """The command on a host with so many GPUs, where pytest ends with these codes."""

    def check(gpus: int, codes: Sequence[int], *options: str) -> tuple[Result, list[Sequence[str]]]:
        asked: list[Sequence[str]] = []
        left = list(codes)

        def note(arguments: Sequence[str]) -> int:
            asked.append(arguments)
            return left.pop(0)

        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr(subject, "_pytest", note)
        app = typer.Typer()
        app.command(context_settings=subject.PASS_ON)(subject.gpu_check)
        return CliRunner().invoke(app, list(options)), asked

    return check


def test_without_a_gpu_it_says_so_in_one_line(run: Callable[..., tuple[Result, list[Sequence[str]]]]) -> None:
    result, asked = run(0, [])
    assert result.exit_code == NO_GPU
    assert result.output.startswith("gpu-check runs the tests of the GPU path, which needs a GPU; PyTorch ")
    assert result.output.count("\n") == 1
    assert asked == []


def test_options_reach_both_runs(run: Callable[..., tuple[Result, list[Sequence[str]]]]) -> None:
    result, asked = run(1, [0, 0], "-k", "graphs", "-x")
    assert result.exit_code == 0
    assert result.output.endswith("gpu-check passed\n")
    assert [arguments[0] for arguments in asked] == ["tests/gpu", "--profile=gpu"]
    assert all(list(arguments[-3:]) == ["-k", "graphs", "-x"] for arguments in asked)


@pytest.mark.parametrize(("codes", "expected"), [((1, 0), 1), ((0, 2), 2), ((5, 0), 0), ((5, 5), 5)])
def test_a_run_that_fails_or_no_test_at_all_fails_the_command(
    run: Callable[..., tuple[Result, list[Sequence[str]]]], codes: Sequence[int], expected: int
) -> None:
    result, _ = run(1, codes)
    assert result.exit_code == expected


def test_the_tests_that_it_runs_exist() -> None:
    paths = [argument for run in subject.RUNS for argument in run if not argument.startswith("-")]
    assert [path for path in paths if not Path(ROOT, path).exists()] == []
