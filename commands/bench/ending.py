"""How a benchmark ends: its report written and shown, or the reason why there is none."""

import signal
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NoReturn

import typer
from pydantic import BaseModel
from rich.table import Table

from benchmarks.unified.stacks import FillError
from ensemble.server.server_error import ServerError
from loadtest.generators import GeneratorError
from loadtest.measures import NothingMeasuredError
from loadtest.render import plain_console
from loadtest.report import write_report

OUT = Path("build/bench")
MOST_SHOWN = 10
"""Wrong answers that are told one by one."""

SERVED = (ServerError, FillError, GeneratorError, NothingMeasuredError, MemoryError)
"""What a run with a server can end with."""


def end_in_order() -> None:
    """Let a SIGTERM end the run as Ctrl-C does, with the server stopped and its shared memory removed."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def finish(path: Path, report: BaseModel, shown: Iterable[Table]) -> None:
    """Write a report as JSON to `path`, and show it."""
    write_report(path, report.model_dump(mode="json"))
    console = plain_console()
    for table in shown:
        console.print(table)
    console.print(f"report written to {path}", soft_wrap=True)


def fail(what: str, wrong: Sequence[str]) -> NoReturn:
    """End with exit code 1, after `what` is wrong and the first of what was found."""
    more = [f"and {len(wrong) - MOST_SHOWN} more"] if len(wrong) > MOST_SHOWN else []
    typer.secho("\n".join([what, *wrong[:MOST_SHOWN], *more]), fg="red", err=True)
    raise typer.Exit(1)
