"""`unipinrec bench policy`: what a policy costs a request."""

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.policy import PolicyPlan, measure_policy
from commands.bench.ending import OUT, SERVED, end_in_order, finish
from commands.errors import one_line_errors
from loadtest.render import narrator, plain_console
from unipinrec.models.config import PRESETS


def policy_command(
    sizes: Annotated[
        str, typer.Option("--preset", help=f"Size of the model: {', '.join(PRESETS)}.")
    ] = PolicyPlan.sizes,
    pairs: Annotated[
        int, typer.Option(min=60, help="Requests that each server gets one at a time, of each kind.")
    ] = PolicyPlan.pairs,
    rounds: Annotated[int, typer.Option(min=1, help="Windows of load of each server.")] = PolicyPlan.rounds,
    seconds: Annotated[float, typer.Option(min=0.5, help="Length of a window of load.")] = PolicyPlan.seconds,
    out: Annotated[Path, typer.Option(help="Folder of bundles, logs and the report policy.json.")] = OUT,
) -> None:
    """Compare a server with a policy with two without, in turns: latency of lone requests, and their rate."""
    end_in_order()
    console = plain_console()
    plan = PolicyPlan(out=out.absolute(), sizes=sizes, pairs=pairs, rounds=rounds, seconds=seconds)
    with one_line_errors(*SERVED, ValueError):
        report = measure_policy(plan, narrator(console))
    finish(out / "policy.json", report, [report.table()])
