"""How a bundle is refused: the file, what it holds and what is allowed, in a line."""

from collections.abc import Callable
from typing import NoReturn

from unipinrec.bundle import BundleError

Report = Callable[[str], None]
"""Gets the name of a file before it is looked at."""


def refuse(file: str, what: str, value: object, allowed: object) -> NoReturn:
    """Raise the `BundleError` of a file that holds what it may not."""
    raise BundleError(f"{file}: {what} is {str(value)[:200]}; allowed: {str(allowed)[:200]}")


def require_equal(file: str, what: str, value: object, allowed: object) -> None:
    """Refuse a value other than the one that is allowed."""
    if value != allowed:
        refuse(file, what, value, allowed)


def in_a_line(error: Exception) -> str:
    """Return what an error of a library says in its first line, or behind a traceback, shortened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    return lines[-1 if "Traceback" in str(error) else 0][:200]
