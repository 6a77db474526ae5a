"""An export does not depend on luck: what a process computes first is as right as what follows.

`make test-slow` runs a few, and `make test-long` many, since each process has to import PyTorch.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ensemble.settings import ROOT
from tests.conftest import Exported

FEW, MANY = 8, 32


@pytest.mark.parametrize(
    "number",
    [
        *(pytest.param(number, marks=pytest.mark.slow) for number in range(FEW)),
        *(pytest.param(number, marks=pytest.mark.long) for number in range(FEW, FEW + MANY)),
    ],
)
def test_a_fresh_process_exports(exported: Exported, tmp_path: Path, number: int) -> None:
    del number
    written = exported.bundle.parents[1]
    command = [
        *(sys.executable, "-c", "from commands.app import app; app()", "export"),
        *("--training", str(written / "checkpoints"), "--dataset", str(written / "data")),
        *("--bundles", str(tmp_path)),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
