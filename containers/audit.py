"""Known vulnerabilities of what is installed: `python -m containers.audit PIP_AUDIT SITE_PACKAGES`.

pip-audit says that it knows of none also where it could ask nobody; this says so.
"""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

SOUND, VULNERABLE, UNKNOWN = 0, 1, 3
"""Exit codes: nothing is known, something is, nobody could be asked."""


def run(pip_audit: str, site_packages: str, options: Sequence[str] = ()) -> tuple[int, list[str]]:
    """Return the exit code and the lines of an audit; `options` are more of pip-audit's own."""
    command = [pip_audit, "--progress-spinner=off", "--format=json", "--path", site_packages, *options]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        report = json.loads(ended.stdout)
    except json.JSONDecodeError:
        said = [line for line in ended.stderr.splitlines() if line.strip()] or ["nothing"]
        return UNKNOWN, [f"audit: the database of vulnerabilities cannot be asked: {said[-1].strip()[:300]}"]
    return judged(report["dependencies"])


def judged(dependencies: Sequence[Mapping[str, Any]]) -> tuple[int, list[str]]:
    """Return the exit code and the lines for what pip-audit found of each package."""
    asked = [package for package in dependencies if "skip_reason" not in package]
    lines = [
        f"audit: {package['name']} {package['version']} has {found['id']}; mended in "
        f"{', '.join(found['fix_versions']) or 'no version'}"
        for package in asked
        for found in package["vulns"]
    ]
    skipped = [package["name"] for package in dependencies if "skip_reason" in package]
    if not asked:
        return UNKNOWN, [
            f"audit: the database of vulnerabilities knows none of {len(skipped)} packages; is it reachable?"
        ]
    told = f"audit: {len(asked)} packages, {len(lines)} known vulnerabilities"
    return VULNERABLE if lines else SOUND, [
        *lines,
        f"{told}; not audited: {', '.join(skipped)}" if skipped else told,
    ]


if __name__ == "__main__":
    code, told = run(sys.argv[1], sys.argv[2], sys.argv[3:])
    print("\n".join(told))
    sys.exit(code)
