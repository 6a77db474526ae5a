"""Starting a server removes what a killed launcher left, and nothing else."""

import os
from pathlib import Path

from ensemble.server.runtime_folder import claim_folder, remove_abandoned


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
