"""`unipinrec gpu-check`: all tests of the GPU path, on the GPU that is there."""

import os
import subprocess
import sys
from collections.abc import Sequence

import typer

from commands.errors import NO_GPU, one_line_errors
from ensemble.gpu_presence import NoGpuError, require_gpu
from ensemble.settings import ROOT

SERVED = ("parity", "kv_path", "concurrency", "bad_input", "inner_nodes", "node_death", "two_rankers")
RUNS = (
    ("tests/gpu",),
    ("--profile=gpu", *(f"tests/served/test_{name}.py" for name in SERVED)),
)
TEST_TIMEOUT_S = 540
"""Of a single test, which may have to wait for a server that compiles."""
NOTHING_CHOSEN = 5
"""pytest's exit code where `-k` leaves no test."""

PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True}
"""How a command must be registered that passes options on."""


def gpu_check(context: typer.Context) -> None:
    """Run tests/gpu and the served tests with the gpu profile; exit code 3 without a GPU.

    Further options go to pytest, as `-k graphs` or `-x`.
    """
    with one_line_errors(NoGpuError, code=NO_GPU):
        require_gpu("gpu-check runs the tests of the GPU path", "")
    codes = [_pytest([*run, *context.args]) for run in RUNS]
    failed = [code for code in codes if code not in (0, NOTHING_CHOSEN)]
    if failed or 0 not in codes:
        raise typer.Exit((failed or codes)[0])
    typer.echo("gpu-check passed")


def _pytest(arguments: Sequence[str]) -> int:
    """The exit code of a run in a process of its own, whose GPU memory ends with it."""
    command = [sys.executable, "-m", "pytest", f"--timeout={TEST_TIMEOUT_S}", "--durations=10", *arguments]
    typer.echo(f"\n{' '.join(command[1:])}")
    paths = [str(ROOT), str(ROOT / "client"), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


if __name__ == "__main__":
    # Without the other commands, and so without what only they need.
    app = typer.Typer(add_completion=False)
    app.command(context_settings=PASS_ON)(gpu_check)
    app()
