"""What is promised holds under another instruction set than the widest of this processor.

Libraries choose kernels by what a processor can do; variables make them see an older one. What runs in this
process has the widest set, or what the environment asks for.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from ensemble.settings import ROOT
from tests.conftest import Exported
from tests.support.chain_answers import USERS, ask
from tests.support.node_chain import Chain, assert_same_answers

NARROWER = {
    "AVX512": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    },
    "AVX2": {
        "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
    },
}
"""What hides the instruction set of PyTorch's kernels, and leaves the next one."""

NUMERIC_TESTS = (
    *("models/test_golden.py", "models/test_features.py", "models/test_embedder.py", "models/test_losses.py"),
    "models/test_transact_search.py",
    "ensemble/test_nodes.py",
)


@pytest.fixture
def narrower() -> dict[str, str]:
    capability = torch.backends.cpu.get_cpu_capability()
    if capability not in NARROWER:
        pytest.skip(f"PyTorch computes with {capability} here; narrower sets are known for {list(NARROWER)}")
    return {**os.environ, **NARROWER[capability]}


def run(arguments: list[str], environment: dict[str, str]) -> str:
    finished = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


def test_the_variables_narrow_the_instruction_set(narrower: dict[str, str]) -> None:
    seen = run(["-c", "import torch; print(torch.backends.cpu.get_cpu_capability())"], narrower).strip()
    assert seen != torch.backends.cpu.get_cpu_capability()


def test_answers_are_the_same_up_to_rounding(
    make_chain: Callable[..., Chain], exported: Exported, narrower: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "answers.npz"
    given = [str(path) for path in (exported.bundle, exported.histories, out)]
    run(["-m", "tests.support.chain_answers", *given], narrower)
    with np.load(out) as there:
        assert_same_answers(dict(there), ask(make_chain(pool_slots=USERS)))


def test_the_numeric_tests_pass(narrower: dict[str, str]) -> None:
    files = [f"tests/unit/{name}" for name in NUMERIC_TESTS]
    assert " passed" in run(["-m", "pytest", "-q", "-p", "no:cacheprovider", *files], narrower)
