"""`unipinrec soak`: constant load for a long time."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from commands import load_options as options
from commands.capacity import capacity_runs
from commands.errors import one_line_errors
from commands.load_options import LoadOptions, load_console, parse_mix
from commands.load_target import LoadTarget
from ensemble.server.server_error import ServerError
from ensemble.stores.history_store import StoreError
from loadtest.capacity import CapacityError
from loadtest.capacity_run import CapacityPlan
from loadtest.generators import GeneratorError, Generators
from loadtest.measures import NothingMeasuredError
from loadtest.plan import LoadPlan, Protocol
from loadtest.plots import plot_soak
from loadtest.report import describe, judged, write_report
from loadtest.schedule import Arrivals
from loadtest.soak import SoakPlan, sampling, soak_checks
from loadtest.verdict import violations
from loadtest.windows import Windows
from unipinrec.data.prepared import PreparedDatasetError

LEAST_SAMPLES = 5


def soak(
    minutes: Annotated[
        float, typer.Option(min=0.05, help="Length, of which the first fifth warms up.")
    ] = 10.0,
    rate: Annotated[
        float | None, typer.Option(min=0.1, help="Capacity in requests a second; default: measured first.")
    ] = None,
    share: Annotated[float, typer.Option(min=0.01, max=1, help="Share of the capacity that is asked.")] = 0.7,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks at memory.")] = 5.0,
    max_growth: Annotated[
        float, typer.Option(min=0, help="Growth of memory that is allowed, as a share.")
    ] = 0.02,
    max_p99_over_p50: Annotated[float, typer.Option(min=1, help="p99 over p50 that is allowed.")] = 3.0,
    arrivals: Annotated[
        Arrivals, typer.Option(help="Gaps between arrivals: even or poisson.")
    ] = Arrivals.EVEN,
    protocol: options.ProtocolOption = Protocol.GRPC,
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
    """Keep a server of its own under constant load; write soak.json and soak.png. Code 1 if something grew,
    failed or slowed down."""
    if minutes * 60 < LEAST_SAMPLES * every:
        raise typer.BadParameter(
            f"--every is {every:g}; allowed: at most {minutes * 60 / LEAST_SAMPLES:g} for such a run"
        )
    if arrivals is Arrivals.CLOSED:
        raise typer.BadParameter("--arrivals is closed; allowed: even, poisson")
    chosen = LoadOptions(
        url=None,
        metrics_url=None,
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
    console, folder = load_console(), out.absolute()
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
        found = rate or capacity_runs(target, plan, CapacityPlan(), folder, console.print)[0].rate
        wanted = SoakPlan(
            rate=share * found,
            arrivals=arrivals,
            seconds=minutes * 60,
            every_s=every,
            max_growth=max_growth,
            max_p99_over_p50=max_p99_over_p50,
        )
        broken = _soak(plan, wanted, target, console, folder)
    if broken:
        typer.secho("\n".join(broken), fg="red", err=True)
        raise typer.Exit(1)


def _soak(plan: LoadPlan, wanted: SoakPlan, target: LoadTarget, console: Console, out: Path) -> list[str]:
    console.print(
        f"{wanted.rate:.4g} requests a second for {wanted.seconds:g} s, {wanted.arrivals.value} arrivals",
        soft_wrap=True,
    )
    watch = target.watch()
    with Generators(plan, out) as generators, sampling(watch, wanted.every_s) as samples:
        window = Windows(plan, generators, watch, out).run(
            wanted.arrivals,
            wanted.rate,
            seconds=wanted.seconds - wanted.warm_up_s,
            warm_up_s=wanted.warm_up_s,
        )
    measured = window.measured
    checks = soak_checks(wanted, measured, samples)
    write_report(
        out / "soak.json",
        {
            **describe(plan, target.server),
            "soak": asdict(wanted),
            "arrivals": wanted.arrivals.value,
            "warm_up_s": wanted.warm_up_s,
            **asdict(measured),
            "usage": asdict(window.usage),
            "generator_cores": window.generator_cores,
            "memory": [asdict(sample) for sample in samples],
            **judged(checks),
        },
    )
    plot_soak(
        out / "soak.png",
        window.outcomes,
        samples,
        began_s=window.began_s,
        title=f"{wanted.rate:.4g} requests a second, {plan.protocol.value}",
    )
    for check in checks:
        console.print(f"{'kept' if check.kept else 'BROKEN'}: {check}", soft_wrap=True)
    console.print(f"written to {out}: soak.json, soak.png", soft_wrap=True)
    return violations(checks)
