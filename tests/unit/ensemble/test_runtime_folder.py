"""Starting a server removes what a killed launcher left, and nothing else."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil

from ensemble.server.runtime_folder import claim_folder, remove_abandoned
from tests.support.waiting import holds_within

LAUNCHER = """
import subprocess, sys, time
from pathlib import Path
from ensemble.server.reaper import Reaper
from ensemble.server.runtime_folder import claim_folder

folder, lock = claim_folder(Path(sys.argv[1]) / "unipinrec")
reaper = Reaper(folder, Path(sys.argv[1]))
left = subprocess.Popen(["sleep", "600"], pass_fds=(lock,), start_new_session=True)
reaper.watch(left.pid)
print(folder, left.pid, flush=True)
time.sleep(600)
"""


def test_only_abandoned_folders_of_launchers_are_removed(tmp_path: Path) -> None:
    base = tmp_path / "unipinrec"
    held, held_lock = claim_folder(base)
    abandoned, lock = claim_folder(base)
    os.close(lock)
    somebody_elses = tmp_path / "unipinrec-on-triton"
    somebody_elses.mkdir()
    (somebody_elses / "work.txt").write_text("precious")
    remove_abandoned(base)
    os.close(held_lock)
    assert held.is_dir()
    assert not abandoned.exists()
    assert (somebody_elses / "work.txt").read_text() == "precious"


def test_a_reaper_ends_what_a_killed_launcher_left_stopped_processes_too(tmp_path: Path) -> None:
    launcher = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert launcher.stdout is not None
    folder, left = launcher.stdout.readline().split()
    (tmp_path / f"{Path(folder).name}-region").touch()
    os.kill(int(left), signal.SIGSTOP)
    launcher.kill()
    launcher.wait()
    assert holds_within(30, lambda: list(tmp_path.iterdir()) == [])
    assert holds_within(10, lambda: not psutil.pid_exists(int(left)) or is_zombie(int(left)))


def is_zombie(pid: int) -> bool:
    return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
