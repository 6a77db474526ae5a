"""`unipinrec capacity`: the highest constant rate that keeps a p99."""

import statistics
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from commands import load_options as options
from commands.errors import one_line_errors
from commands.load_options import LoadOptions, load_console, parse_mix
from commands.load_target import LoadTarget
from ensemble.server.server_error import ServerError
from ensemble.stores.history_store import StoreError
from loadtest.capacity import CapacityError
from loadtest.capacity_run import CapacityPlan, CapacityRun, measure_capacity
from loadtest.generators import GeneratorError, Generators
from loadtest.measures import NothingMeasuredError
from loadtest.plan import LoadPlan, Protocol
from loadtest.plots import plot_capacity
from loadtest.report import describe, write_report
from loadtest.schedule import Arrivals
from loadtest.windows import Windows
from unipinrec.data.prepared import PreparedDatasetError


def capacity(
    url: options.Url = None,
    metrics_url: options.MetricsUrl = None,
    protocol: options.ProtocolOption = Protocol.GRPC,
    p99_ms: Annotated[
        float | None, typer.Option(min=0.1, help="p99 to keep; default: that of the closed loop.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.5, help="Length of a measured window.")] = 10.0,
    warm_up: Annotated[float, typer.Option(min=0, help="Seconds before each that are discarded.")] = 2.0,
    users: Annotated[int, typer.Option(min=1, help="Users of the closed loop beside it.")] = 16,
    arrivals: Annotated[Arrivals, typer.Option(help="poisson or even.")] = Arrivals.POISSON,
    precision: Annotated[
        float, typer.Option(min=0.001, max=1, help="Share that the rate may be off by.")
    ] = 0.05,
    trials: Annotated[int, typer.Option(min=2, max=100, help="Rates tried at most.")] = 12,
    repeats: Annotated[int, typer.Option(min=1, max=100, help="Runs, for the spread.")] = 1,
    workers: options.Workers = 1,
    mix: options.Mix = options.DEFAULT_MIX,
    zipf: options.Zipf = 1.0,
    seed: options.Seed = 0,
    bundle: options.Bundle = None,
    histories: options.Histories = None,
    dataset: options.Dataset = None,
    traffic: options.TrafficFile = None,
    num_results: options.Results = 20,
    timeout: options.Timeout = 10.0,
    out: options.Out = options.DEFAULT_OUT,
) -> None:
    """Search the highest constant rate that keeps a p99; write capacity.json and capacity.png."""
    if arrivals is Arrivals.CLOSED:
        raise typer.BadParameter("--arrivals is closed; allowed: poisson, even")
    chosen = LoadOptions(
        url=url,
        metrics_url=metrics_url,
        protocol=protocol,
        bundle=bundle,
        histories=histories,
        dataset=dataset,
        traffic=traffic,
        mix=parse_mix(mix, zipf),
        seed=seed,
        workers=workers,
        num_results=num_results,
        timeout_s=timeout,
        out=out,
    )
    searched = CapacityPlan(
        p99_ms=p99_ms,
        seconds=seconds,
        warm_up_s=warm_up,
        users=users,
        arrivals=arrivals,
        precision=precision,
        most_trials=trials,
    )
    console = load_console()
    with (
        one_line_errors(
            ServerError,
            StoreError,
            GeneratorError,
            CapacityError,
            NothingMeasuredError,
            PreparedDatasetError,
            ValueError,
        ),
        chosen.running(console) as (target, plan),
    ):
        runs = capacity_runs(target, plan, searched, chosen.out.absolute(), console.print, repeats)
        _report(plan, target, searched, runs, chosen.out.absolute(), console)


def capacity_runs(
    target: LoadTarget,
    plan: LoadPlan,
    searched: CapacityPlan,
    out: Path,
    tell: Callable[[str], None],
    repeats: int = 1,
) -> list[CapacityRun]:
    """Search so many times.

    Raises what `measure_capacity` raises.
    """
    with Generators(plan, out) as generators:
        windows = Windows(plan, generators, target.watch(), out)
        tell("settling")
        windows.run(Arrivals.CLOSED, searched.users, seconds=searched.seconds, warm_up_s=0)
        return [measure_capacity(windows, searched, tell) for _ in range(repeats)]


def _report(
    plan: LoadPlan,
    target: LoadTarget,
    searched: CapacityPlan,
    runs: list[CapacityRun],
    out: Path,
    console: Console,
) -> None:
    rates = [run.rate for run in runs]
    report: dict[str, Any] = {
        **describe(plan, target.server),
        "search": asdict(searched),
        "arrivals": searched.arrivals.value,
        "latency_from": "the intended start",
        "rate": statistics.median(rates),
        "rate_lowest": min(rates),
        "rate_highest": max(rates),
        "share_of_closed_loop": statistics.median(run.share for run in runs),
        "runs": [asdict(run) for run in runs],
    }
    write_report(out / "capacity.json", report)
    plot_capacity(
        out / "capacity.png",
        runs,
        f"{plan.protocol.value}, {searched.arrivals.value} arrivals: highest rate by p99",
    )
    for run in runs:
        console.print(
            f"{run.rate:.4g} requests a second keep p99 at most {run.p99_limit_ms:.4g} ms: {run.share:.0%} "
            f"of the {run.closed_rps:.4g} of {searched.users} users in a closed loop",
            soft_wrap=True,
        )
        console.print(f"  closed loop: {run.saturated}", soft_wrap=True)
        console.print(f"  at the rate found: {run.at_rate}", soft_wrap=True)
    console.print(f"written to {out}: capacity.json, capacity.png", soft_wrap=True)
