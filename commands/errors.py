"""How commands fail: one red line on stderr and exit code 2."""

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from pydantic import ValidationError


@contextmanager
def one_line_errors(*expected: type[Exception]) -> Iterator[None]:
    """What the user can mend is said in one line; anything else keeps its traceback."""
    try:
        yield
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        _fail(f"{where} is {first['input']!r}; {first['msg']}" if where else first["msg"])
    except OSError as error:
        _fail(str(error))
    except expected as error:
        _fail(str(error))


def _fail(message: str) -> None:
    typer.secho(message, fg="red", err=True)
    raise typer.Exit(2)
