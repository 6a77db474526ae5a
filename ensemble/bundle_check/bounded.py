"""The check in a process of its own: what hangs, crashes or takes too much memory is refused too."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ensemble.settings import ROOT
from unipinrec.bundle import MANIFEST, BundleError, read_manifest

START_S = 120.0
"""Seconds for a bundle of any size: importing PyTorch on a busy machine takes most of them."""

LEAST_RATE = 50e6
"""Bytes a second at which files are read at least."""


def check_bundle_bounded(folder: Path, timeout_s: float | None = None) -> None:
    """Check a bundle in a process of its own, within `timeout_s` seconds; without it, so many as its size
    may take.

    Raises `BundleError`, one line that names the file, what it holds and what is allowed.
    """
    # Once, so that a switch of `current` meanwhile cannot mix two bundles.
    folder = folder.resolve()
    if timeout_s is None:
        sizes = (file.size if file else 0 for _, file in read_manifest(folder).all_files())
        timeout_s = START_S + min(sum(sizes), 2**40) / LEAST_RATE
    command = [sys.executable, "-m", "ensemble.bundle_check.process", str(folder), str(timeout_s)]
    try:
        ended = subprocess.run(
            command,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise BundleError(
            f"bundle {folder}: {_last(error.stdout, 'at')} is not checked within {timeout_s:g} s"
        ) from None
    refused = _last(ended.stdout, "refused")
    if refused:
        raise BundleError(f"bundle {folder}: {refused}")
    if ended.returncode:
        how = f"signal {-ended.returncode}" if ended.returncode < 0 else f"exit code {ended.returncode}"
        raise BundleError(
            f"bundle {folder}: {_last(ended.stdout, 'at') or MANIFEST} ended its check by {how}; allowed: "
            "what `unipinrec export` wrote"
        )


def _last(output: bytes | None, kind: str) -> str:
    """The last thing of a kind that the process told; empty if there is none."""
    told = [line for line in _lines(output) if line[:1] == [kind]]
    return str(told[-1][1]) if told else ""


def _lines(output: bytes | None) -> list[Sequence[str]]:
    """What the process told, among what libraries print."""
    lines = (output or b"").decode(errors="replace").splitlines()
    return [json.loads(line) for line in lines if line.startswith('["') and line.endswith('"]')]
