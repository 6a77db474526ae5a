"""`unipinrec bench rollouts`: deploys and rollbacks under load."""

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.rollouts import RolloutPlan, measure_rollouts
from commands.bench.ending import OUT, SERVED, end_in_order, fail, finish
from commands.errors import one_line_errors
from loadtest.render import narrator, plain_console
from unipinrec.models.config import PRESETS


def rollouts_command(
    sizes: Annotated[
        str, typer.Option("--preset", help=f"Size of both models: {', '.join(PRESETS)}.")
    ] = RolloutPlan.sizes,
    items: Annotated[int, typer.Option(min=2_000, help="Items of the catalogue.")] = RolloutPlan.items,
    changes: Annotated[int, typer.Option(min=1, help="Deploys and rollbacks.")] = RolloutPlan.changes,
    rate: Annotated[float, typer.Option(min=1, help="Requests a second.")] = RolloutPlan.rate,
    seconds: Annotated[
        float, typer.Option(min=20, help="Length of a stretch of load, longer than any deploy.")
    ] = RolloutPlan.seconds,
    out: Annotated[Path, typer.Option(help="Folder of bundles, logs and the report rollouts.json.")] = OUT,
) -> None:
    """Deploy two bundles in turns and roll back under steady load: failures, mixed answers, latency.

    Takes about 20 minutes. Ends with code 1 if a request failed or an answer is not its bundle's.
    """
    end_in_order()
    console = plain_console()
    plan = RolloutPlan(
        out=out.absolute(), sizes=sizes, items=items, changes=changes, rate=rate, seconds=seconds
    )
    with one_line_errors(*SERVED, ValueError):
        report = measure_rollouts(plan, narrator(console))
    finish(out / "rollouts.json", report, [report.table()])
    wrong = [what for found in report.answers.values() for what in found.differences]
    if report.failed or report.refused or wrong:
        fail(
            "requests or rollouts failed, or answers differ:",
            [*map(str, report.failed.items()), *report.refused, *wrong],
        )
