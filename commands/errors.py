"""How commands fail: one red line on stderr and an exit code."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import typer
from pydantic import ValidationError

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
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        fail(f"{where} is {first['input']!r}; {message}" if where else message, code)
    except mendable as error:
        fail(str(error), code)


def fail(message: str, code: int) -> NoReturn:
    """End the command with a line on stderr."""
    typer.secho(" ".join(line.strip() for line in message.splitlines()), fg="red", err=True)
    raise typer.Exit(code)
