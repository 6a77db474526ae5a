"""`python -m ensemble.bundle_check.process FOLDER SECONDS`: the check, told line by line."""

import json
import os
import resource
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from pydantic import ValidationError

from ensemble.bundle_check.files import check_files
from ensemble.bundle_check.refusal import Report, in_a_line
from unipinrec.bundle import MANIFEST, BundleError, verify_bundle
from unipinrec.config import first_fault

MEMORY = 6 << 30
"""Bytes beside those of the bundle's files."""

COPIES = 6
"""Times the bundle's files that the check may hold in memory."""

NICENESS = 10
"""A deploy checks beside a server that answers."""


def check_bundle(folder: Path, report: Report, may_hold: Callable[[int], None] = lambda _: None) -> None:
    """Check all that a bundle holds. `report` gets the name of each file before it is looked at, `may_hold`
    the bytes of all files once they are known to be sensible. Raises `BundleError`, and what a library
    raises."""
    report(MANIFEST)
    manifest, size = check_files(folder)
    may_hold(size)
    # These import PyTorch and FAISS, which a bundle without the right files does not need.
    from ensemble.bundle_check import items, models

    items.check_headers(folder, manifest, report)
    models.check_headers(folder, manifest, report)
    report(MANIFEST)
    verify_bundle(folder)
    items.check_content(folder, manifest, report)
    models.check_content(folder, manifest, report)


def refusal_of(folder: Path, report: Report, may_hold: Callable[[int], None] = lambda _: None) -> str | None:
    """Return why a bundle is refused, in a line that begins with a file's name; None where it is not. The
    arguments are those of `check_bundle`."""
    place = [MANIFEST]

    def follow(name: str) -> None:
        place[0] = name
        report(name)

    try:
        check_bundle(folder, follow, may_hold)
    except BundleError as error:
        return str(error).removeprefix(f"bundle {folder}: ").replace("\n", " ")
    except ValidationError as error:
        return f"{place[0]}: {first_fault(error)}"
    # Whatever a library makes of what it cannot read.
    except Exception as error:
        return f"{place[0]} cannot be read: {type(error).__name__}: {in_a_line(error)}"
    return None


def _limit(what: int, most: int) -> None:
    _, hard = resource.getrlimit(what)
    resource.setrlimit(what, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def main(folder: Path, timeout_s: float) -> int:
    """Return the exit code."""
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_CPU, int(timeout_s) + 1)
    _limit(resource.RLIMIT_DATA, MEMORY)
    os.nice(NICENESS)

    def tell(kind: str, text: str) -> None:
        print(json.dumps([kind, text]), flush=True)

    def may_hold(size: int) -> None:
        _limit(resource.RLIMIT_DATA, MEMORY + COPIES * size)

    refused = refusal_of(folder, partial(tell, "at"), may_hold)
    if refused:
        tell("refused", refused)
    return 2 if refused else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), float(sys.argv[2])))
