"""`unipinrec bench faults`: processes killed and stopped under load."""

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.faults import FaultsPlan, measure_faults
from commands.bench.ending import OUT, SERVED, end_in_order, finish
from commands.errors import one_line_errors
from loadtest.render import narrator, plain_console
from unipinrec.models.config import PRESETS


def faults_command(
    sizes: Annotated[
        str, typer.Option("--preset", help=f"Size of the model: {', '.join(PRESETS)}.")
    ] = FaultsPlan.sizes,
    rate: Annotated[float, typer.Option(min=1, help="Requests a second.")] = FaultsPlan.rate,
    repeats: Annotated[int, typer.Option(min=1, help="Of each fault.")] = FaultsPlan.repeats,
    only: Annotated[
        list[str] | None, typer.Option(help="One fault alone, as 'history killed'; may be repeated.")
    ] = None,
    node_window: Annotated[
        float, typer.Option(min=2, help="Seconds of load after a node's fault.")
    ] = FaultsPlan.node_window_s,
    server_window: Annotated[
        float, typer.Option(min=2, help="Seconds of load after a fault of the server or its launcher.")
    ] = FaultsPlan.server_window_s,
    out: Annotated[Path, typer.Option(help="Folder of bundles, logs and the report faults.json.")] = OUT,
) -> None:
    """Kill and stop nodes, server and launcher under load, and compare every answer with what it was before.

    A trial takes 17 s, of the server or the launcher 35; all of them, repeated 20 times, an hour and a half.
    """
    end_in_order()
    console = plain_console()
    plan = FaultsPlan(
        out=out.absolute(),
        sizes=sizes,
        rate=rate,
        repeats=repeats,
        node_window_s=node_window,
        server_window_s=server_window,
        only=tuple(only or ()),
    )
    with one_line_errors(*SERVED, ValueError):
        report = measure_faults(plan, narrator(console))
    finish(out / "faults.json", report, [report.table()])
