"""`unipinrec bench flood`: more requests than a server can answer."""

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.flood import FloodPlan, measure_flood
from benchmarks.sweep.sweep import tables
from commands.bench.ending import OUT, SERVED, end_in_order, finish
from commands.errors import one_line_errors
from ensemble.stores.history_store import StoreError
from loadtest.render import narrator, plain_console
from unipinrec.models.config import PRESETS


def flood_command(
    sizes: Annotated[
        str, typer.Option("--preset", help=f"Size of the model: {', '.join(PRESETS)}.")
    ] = FloodPlan.sizes,
    times: Annotated[float, typer.Option(min=1.0, help="The flood over the capacity.")] = FloodPlan.times,
    seconds: Annotated[float, typer.Option(min=1.0, help="Length of the flood.")] = FloodPlan.seconds,
    deadline_ms: Annotated[
        float, typer.Option(min=1.0, help="What each request says that its caller waits.")
    ] = FloodPlan.deadline_ms,
    callers: Annotated[
        int, typer.Option(min=1, help="Of the closed loop that finds the capacity.")
    ] = FloodPlan.callers,
    without_s: Annotated[
        float,
        typer.Option("--without", min=0.0, help="Seconds of the same flood without admission; 0: none."),
    ] = FloodPlan.without_s,
    out: Annotated[Path, typer.Option(help="Folder of bundle, logs and the report flood.json.")] = OUT,
) -> None:
    """Send a server several times what it can answer: what is answered in time, how soon others are refused.

    Everything is on this machine, the load generator too. Takes about three minutes.
    """
    end_in_order()
    plan = FloodPlan(
        out=out.absolute(),
        sizes=sizes,
        times=times,
        seconds=seconds,
        capacity_s=min(seconds, FloodPlan.capacity_s),
        after_s=min(seconds, FloodPlan.after_s),
        deadline_ms=deadline_ms,
        callers=callers,
        without_s=without_s,
    )
    plan.out.mkdir(parents=True, exist_ok=True)
    with one_line_errors(*SERVED, StoreError, ValueError):
        report = measure_flood(plan, narrator(plain_console()))
    finish(out / f"{report.subject}.json", report, tables(report))
