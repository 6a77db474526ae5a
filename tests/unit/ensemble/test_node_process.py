"""A process of a node is judged by what Linux says of it, and by the batch that it says it is at."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from ensemble.nodes.busy import Busy, busy_since
from ensemble.server.node_process import LONGEST_BATCH_S, STOPPED_S, Fate, NodeProcess
from tests.support.waiting import holds_within

HANG_S = 5.0
NODE = """
import sys, time
from pathlib import Path
from ensemble.nodes.busy import Busy
with Busy(Path(sys.argv[1])):
    print("busy", flush=True)
    while sys.argv[2] == "computes" or not time.sleep(0.01):
        pass
"""


@pytest.fixture
def node(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[NodeProcess]:
    """A process at a batch that never ends, during which it computes or waits."""
    command = [sys.executable, "-c", NODE, str(tmp_path), request.param]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"busy\n"
        yield NodeProcess("ranking", "ranking_0_0", psutil.Process(process.pid))
        process.kill()


waiting = pytest.mark.parametrize("node", ["waits"], indirect=True)
computing = pytest.mark.parametrize("node", ["computes"], indirect=True)


@waiting
def test_one_that_waits_in_a_batch_hangs_after_a_while(node: NodeProcess, tmp_path: Path) -> None:
    assert busy_since(tmp_path, node.pid) <= time.monotonic()
    assert node.fate(100.0, tmp_path, HANG_S) is None
    assert node.fate(104.9, tmp_path, HANG_S) is None
    assert holds_within(10, lambda: node.fate(105.0, tmp_path, HANG_S) is Fate.HUNG)


@computing
def test_one_that_computes_is_slow_until_nobody_waits_for_it(node: NodeProcess, tmp_path: Path) -> None:
    assert node.fate(100.0, tmp_path, HANG_S) is None
    before = node.process.cpu_times().user
    assert holds_within(60, lambda: node.process.cpu_times().user > before + 0.5)
    assert node.fate(105.0, tmp_path, HANG_S) is None
    assert node.fate(100.0 + LONGEST_BATCH_S, tmp_path, HANG_S) is Fate.HUNG


@waiting
def test_one_that_is_stopped_for_a_moment_is_left_alone(node: NodeProcess, tmp_path: Path) -> None:
    node.process.suspend()
    assert holds_within(10, lambda: node.process.status() == psutil.STATUS_STOPPED)
    assert node.fate(100.0, tmp_path, HANG_S) is None
    node.process.resume()
    assert holds_within(10, lambda: node.process.status() != psutil.STATUS_STOPPED)
    assert node.fate(100.0 + STOPPED_S, tmp_path, HANG_S) is None
    node.process.suspend()
    assert holds_within(10, lambda: node.process.status() == psutil.STATUS_STOPPED)
    assert node.fate(102.0, tmp_path, HANG_S) is None
    assert node.fate(102.0 + STOPPED_S, tmp_path, HANG_S) is Fate.STOPPED


@waiting
def test_one_that_died_is_found_before_anybody_waited_for_it(node: NodeProcess, tmp_path: Path) -> None:
    node.process.kill()
    assert holds_within(10, lambda: node.fate(100.0, tmp_path, HANG_S) is Fate.DIED)


def test_a_batch_that_ended_is_none(tmp_path: Path) -> None:
    busy = Busy(tmp_path)
    with busy:
        assert busy_since(tmp_path, psutil.Process().pid) > 0
    assert busy_since(tmp_path, psutil.Process().pid) == 0
    assert busy_since(tmp_path, 1) == 0


def test_what_is_no_node_is_none() -> None:
    assert NodeProcess.of(psutil.Process()) is None
