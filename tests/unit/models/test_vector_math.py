"""The first vector math of a process is right, however many threads compute it.

Each child is forked from a process that has computed nothing but what its imports did, so its state is that
of a fresh process. Without `warm_up`, one child in some dozens is wrong where the processor has AVX-512.
"""

import json
import subprocess
import sys

import pytest

from ensemble.settings import ROOT

CHILDREN = 60
FIRST_CALLS = """
import json, os, sys
import torch
if sys.argv[1] != "torch":
    __import__(sys.argv[1])

def wrong() -> list[str]:
    torch.set_num_threads(2)
    argument = torch.arange(1, 514 * 32 + 1) / (514 * 32 + 2)
    # The second thread is awake, so that both make the first calls.
    torch.ones(1 << 16).add_(1)
    names = ("exp", "sin", "cos", "log1p", "sqrt", "erf", "tanh", "log")
    pairs = {name: (getattr(torch, name)(argument), getattr(torch, name)(argument)) for name in names}
    return [name for name, (first, second) in pairs.items() if not torch.equal(first, second)]

found = []
for _ in range(int(sys.argv[2])):
    ours, childs = os.pipe()
    child = os.fork()
    if not child:
        os.write(childs, json.dumps(wrong()).encode())
        os._exit(0)
    os.close(childs)
    with os.fdopen(ours, "rb") as pipe:
        found.append(json.loads(pipe.read()))
    os.waitpid(child, 0)
print(json.dumps(found))
"""


def first_calls(module: str) -> list[list[str]]:
    """The functions whose first call differed from the second, in each child of a process with `module`."""
    command = [sys.executable, "-c", FIRST_CALLS, module, str(CHILDREN)]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found: list[list[str]] = json.loads(finished.stdout)
    assert len(found) == CHILDREN
    return found


def test_first_calls_on_two_threads_are_right() -> None:
    assert first_calls("unipinrec.models.unified") == [[]] * CHILDREN


@pytest.mark.parametrize("module", ["commands.export", "ensemble.executors.engines"])
def test_whatever_computes_has_settled_first(module: str) -> None:
    code = f"import sys, {module}; assert 'unipinrec.models.common.vector_math' in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
