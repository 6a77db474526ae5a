"""A test that needs a program says so where the program is missing."""

import pytest

from tests.support.tools import REQUIRE_TOOLS, tool


def test_a_missing_tool_skips_or_fails_as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(REQUIRE_TOOLS, raising=False)
    with pytest.raises(pytest.skip.Exception, match=r"no-such-tool is not installed; .* package some-tools"):
        tool("no-such-tool", "some-tools")
    monkeypatch.setenv(REQUIRE_TOOLS, "1")
    with pytest.raises(pytest.fail.Exception, match="no-such-tool is not installed"):
        tool("no-such-tool")
