"""`unipinrec capacity`: the highest constant rate that keeps a p99."""

import statistics
from dataclasses import asdict
from typing import Annotated

import typer

from commands.load_options import LoadOptions, takes_load
from loadtest.capacity import CapacityPlan, measure_capacity
from loadtest.generators import Generators
from loadtest.plots import plot_capacity
from loadtest.render import plain_console
from loadtest.report import describe, write_report
from loadtest.schedule import Arrivals
from loadtest.windows import Windows


@takes_load()
def capacity(
    load: LoadOptions,
    p99_ms: Annotated[
        float | None, typer.Option(min=0.1, help="p99 to keep; default: that of the closed loop.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.5, max=3_600, help="Length of a measured window.")] = 10.0,
    warm_up: Annotated[
        float, typer.Option(min=0, max=3_600, help="Seconds before each that are discarded.")
    ] = 2.0,
    users: Annotated[int, typer.Option(min=1, help="Users of the closed loop beside it.")] = 16,
    arrivals: Annotated[Arrivals, typer.Option(help="poisson or even.")] = Arrivals.POISSON,
    precision: Annotated[
        float, typer.Option(min=0.001, max=1, help="Share that the rate may be off by.")
    ] = 0.05,
    trials: Annotated[int, typer.Option(min=2, max=100, help="Rates tried at most.")] = 12,
    repeats: Annotated[int, typer.Option(min=1, max=100, help="Runs, for the spread.")] = 1,
) -> None:
    """Search the highest constant rate that keeps a p99; write capacity.json and capacity.png."""
    if arrivals is Arrivals.CLOSED:
        raise typer.BadParameter("--arrivals is closed; allowed: poisson, even")
    searched = CapacityPlan(
        p99_ms=p99_ms,
        seconds=seconds,
        warm_up_s=warm_up,
        users=users,
        arrivals=arrivals,
        precision=precision,
        most_trials=trials,
    )
    console = plain_console()
    with load.running(console) as (target, plan, out):
        with Generators(plan.workers, out) as generators:
            windows = Windows(generators, target.watch())
            runs = measure_capacity(windows, plan, searched, repeats, console.print)
        rates = [run.rate for run in runs]
        found = {
            "search": asdict(searched),
            "arrivals": searched.arrivals.value,
            "latency_from": "the intended start",
            "rate": statistics.median(rates),
            "rate_lowest": min(rates),
            "rate_highest": max(rates),
            "share_of_closed_loop": statistics.median(run.share for run in runs),
            "runs": [asdict(run) for run in runs],
        }
        write_report(out / "capacity.json", describe(plan, target.server) | found)
        title = f"{plan.protocol.value}, {searched.arrivals.value} arrivals: highest rate by p99"
        plot_capacity(out / "capacity.png", runs, title)
    for run in runs:
        console.print(
            f"{run.rate:.4g} requests a second keep p99 at most {run.p99_limit_ms:.4g} ms: {run.share:.0%} "
            f"of the {run.closed_rps:.4g} of {searched.users} users in a closed loop",
            soft_wrap=True,
        )
        console.print(f"  closed loop: {run.saturated}", soft_wrap=True)
        console.print(f"  at the rate found: {run.at_rate}", soft_wrap=True)
    console.print(f"written to {out}: capacity.json, capacity.png", soft_wrap=True)
