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
@pytest.mark.timeout(30 * PROCESSES)
def test_every_one_of_40_fresh_processes_exports(exported: Exported, tmp_path: Path) -> None:
    written = exported.bundle.parents[1]
    command = [
        *(sys.executable, "-c", "from commands.app import app; app()", "export"),
        *("--training", str(written / "checkpoints"), "--dataset", str(written / "data")),
        *("--bundles", str(tmp_path)),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    failed = []
    for number in range(PROCESSES):
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            failed.append(f"process {number}: {done.stderr}")
    assert not failed, f"{len(failed)} of {PROCESSES} failed: " + "\n".join(failed)
