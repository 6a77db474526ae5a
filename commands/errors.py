"""How commands fail: one red line on stderr and an exit code."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import typer
from pydantic import ValidationError

from unipinrec.config import first_fault

USAGE = 2
"""Exit code of what the user can mend by other options or files."""

NO_GPU = 3
"""Exit code of what needs a GPU where there is none that can be used."""

NO_ENGINE = 3
"""Exit code of what needs a container engine where none answers."""


@contextmanager
def one_line_errors(*expected: type[Exception], code: int = USAGE) -> Iterator[None]:
    """End the command with one line for what the user can mend; anything else keeps its traceback."""
    mendable: tuple[type[Exception], ...] = (OSError, *expected)
    try:
        yield
    except ValidationError as error:
        fail(first_fault(error), code)
    except mendable as error:
        fail(_told(error), code)


def fail(message: str, code: int) -> NoReturn:
    """End the command with a line on stderr."""
    typer.secho(" ".join(line.strip() for line in message.splitlines()), fg="red", err=True)
    raise typer.Exit(code)


def _told(error: Exception) -> str:
    """What an error says, without the number that a system's error begins with."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error)
