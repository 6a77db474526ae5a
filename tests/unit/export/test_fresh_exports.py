"""An export does not depend on luck: what a process computes first is as right as what follows.

`make test-slow` runs it, since each of many processes has to import PyTorch.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ensemble.settings import ROOT
from tests.conftest import Exported

PROCESSES = 40


@pytest.mark.slow
@pytest.mark.parametrize("number", range(PROCESSES))
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
