"""An audit that could ask nobody is not taken for a good one."""

import stat
from pathlib import Path

import pytest

from containers.audit import SOUND, UNKNOWN, VULNERABLE, judged, run

GOOD = {"name": "numpy", "version": "1.26.4", "vulns": []}
BAD = {"name": "jinja2", "version": "3.1.1", "vulns": [{"id": "PYSEC-1", "fix_versions": ["3.1.6"]}]}
SKIPPED = {"name": "torch", "skip_reason": "Dependency not found on PyPI"}


@pytest.mark.parametrize(
    ("dependencies", "code", "lines"),
    [
        ([GOOD], SOUND, ["audit: 1 packages, 0 known vulnerabilities"]),
        ([GOOD, SKIPPED], SOUND, ["audit: 1 packages, 0 known vulnerabilities; not audited: torch"]),
        (
            [GOOD, BAD],
            VULNERABLE,
            [
                "audit: jinja2 3.1.1 has PYSEC-1; mended in 3.1.6",
                "audit: 2 packages, 1 known vulnerabilities",
            ],
        ),
        (
            [SKIPPED],
            UNKNOWN,
            ["audit: the database of vulnerabilities knows none of 1 packages; is it reachable?"],
        ),
    ],
)
def test_what_is_found_is_told(dependencies: list[dict[str, object]], code: int, lines: list[str]) -> None:
    assert judged(dependencies) == (code, lines)


def test_a_tool_that_fails_is_no_good_audit(tmp_path: Path) -> None:
    tool = tmp_path / "pip-audit"
    tool.write_text("#!/bin/sh\necho 'ConnectionError: cannot resolve pypi.org' >&2\nexit 1\n")
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    assert run(str(tool), str(tmp_path)) == (
        UNKNOWN,
        ["audit: the database of vulnerabilities cannot be asked: ConnectionError: cannot resolve pypi.org"],
    )
