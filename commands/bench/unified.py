"""`unipinrec bench unified`: unified against separate serving."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.unified.plan import FULL, QUICK, Kind
from benchmarks.unified.run import Benchmark
from benchmarks.unified.show import plot as plot_unified
from benchmarks.unified.show import show as show_unified
from commands.bench.ending import OUT, SERVED, end_in_order, fail
from commands.errors import one_line_errors
from loadtest.render import narrator, plain_console


def unified_command(
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
    out: Annotated[Path, typer.Option(help="Folder of bundle, logs, report.json and pictures.")] = OUT,
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
    end_in_order()
    console = plain_console()
    with one_line_errors(*SERVED):
        report = Benchmark(plan, narrator(console)).run()
    plot_unified(report, plan.out)
    show_unified(console, report)
    console.print(f"report and pictures written to {plan.out}, after {report.minutes:.1f} minutes")
    if report.correctness.differences:
        fail("answers differ from offline PyTorch:", report.correctness.differences)
