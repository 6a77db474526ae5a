"""`unipinrec bench`: unified against separate serving, measured on a real server."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.load import FillError
from benchmarks.measures import NoAnswerError
from benchmarks.plan import FULL, QUICK, BenchPlan, Kind
from benchmarks.plots import plot
from benchmarks.report import Correctness
from benchmarks.run import Benchmark
from benchmarks.tables import show
from benchmarks.zipf import TooLittleMemoryError
from commands.errors import one_line_errors
from ensemble.server.server_error import ServerError

LOG_WIDTH = 140
"""Columns where no terminal says how many it has."""

MOST_SHOWN = 10
"""Wrong answers that are told one by one."""


def bench(
    quick: Annotated[
        bool, typer.Option("--quick", help="Everything small and once, in about four minutes.")
    ] = False,
    only: Annotated[Kind | None, typer.Option(help="One kind of traffic alone.")] = None,
    rounds: Annotated[
        int | None, typer.Option(min=1, help=f"Rounds of all stacks in turn; {FULL.load.rounds}.")
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(min=0.5, help=f"Length of a measured window; {FULL.load.seconds:g}.")
    ] = None,
    items: Annotated[
        int | None, typer.Option(min=2_000, help=f"Items of the catalogue; {FULL.items}.")
    ] = None,
    users: Annotated[
        int | None,
        typer.Option(min=200, help=f"Users of Zipf traffic, a tenth with a slot; {FULL.zipf_users}."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of all traffic.")] = FULL.load.seed,
    tolerance: Annotated[
        float, typer.Option(min=0, help="Allowed difference of sampled answers to offline PyTorch.")
    ] = FULL.tolerance,
    baseline: Annotated[
        str, typer.Option(help="Ensemble that plays the separate stack; `recommend` shows the noise.")
    ] = FULL.baseline,
    out: Annotated[Path, typer.Option(help="Folder of bundle, logs, report.json and pictures.")] = FULL.out,
) -> None:
    """Compare unified with separate serving under cold, warm and Zipf traffic, on a server of its own.

    Takes about 25 minutes, and two more for a catalogue the first time. UNIPINREC_* variables set the server,
    as UNIPINREC_THREADS. Ends with code 1 if a sampled answer differs from offline PyTorch.
    """
    standard = QUICK if quick else FULL
    load = replace(
        standard.load,
        rounds=rounds or standard.load.rounds,
        seconds=seconds or standard.load.seconds,
        seed=seed,
    )
    plan = replace(
        standard,
        load=load,
        items=items or standard.items,
        zipf_users=users or standard.zipf_users,
        tolerance=tolerance,
        baseline=baseline,
        only=only,
        out=out.absolute(),
    )
    _run(plan)


def _run(plan: BenchPlan) -> None:
    # A SIGTERM ends the run in order too, with the server stopped and its shared memory removed.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = LOG_WIDTH
    with one_line_errors(ServerError, FillError, NoAnswerError, TooLittleMemoryError):
        with _progress(console, plan.steps) as tell:
            report = Benchmark(plan, tell, console.print).run()
        report.write(plan.out / "report.json")
        plot(report, plan.out)
    show(console, report)
    console.print(f"report and pictures written to {plan.out}, after {report.minutes:.1f} minutes")
    _fail_if_wrong(report.correctness)


@contextmanager
def _progress(console: Console, steps: int) -> Iterator[Callable[[str], None]]:
    """Says what runs: a bar on a terminal, else a line with the seconds so far."""
    if not console.is_terminal:
        began = time.monotonic()
        yield lambda what: console.print(f"{time.monotonic() - began:6.0f} s  {what}")
        return
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, refresh_per_second=2) as progress:
        task = progress.add_task("", total=steps, completed=-1)

        def tell(what: str) -> None:
            progress.update(task, advance=1, description=what)

        yield tell


def _fail_if_wrong(correctness: Correctness) -> None:
    wrong = correctness.differences
    if not wrong:
        return
    shown = [
        *wrong[:MOST_SHOWN],
        *([f"and {len(wrong) - MOST_SHOWN} more"] if len(wrong) > MOST_SHOWN else []),
    ]
    typer.secho("\n".join(["answers differ from offline PyTorch:", *shown]), fg="red", err=True)
    raise typer.Exit(1)
