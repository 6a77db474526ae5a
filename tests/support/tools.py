"""Programs that some tests need and that pip does not install."""

import os

import pytest

from containers.proxy import find_tool

REQUIRE_TOOLS = "UNIPINREC_REQUIRE_TOOLS"


def tool(name: str, package: str | None = None) -> str:
    """The path of a program; the test is skipped without it, or fails where all tools must be there."""
    path = find_tool(name)
    if path is None:
        missing = f"{name} is not installed; Debian and Ubuntu have it in the package {package or name}"
        if os.environ.get(REQUIRE_TOOLS) == "1":
            pytest.fail(missing)
        pytest.skip(missing)
    return path
