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
from ensemble.server_error import ServerError
from loadtest.capacity import CapacityError
from loadtest.capacity_run import CapacityPlan
from loadtest.generators import GeneratorError, Generators
from loadtest.measures import NothingMeasuredError
from loadtest.plan import LoadPlan, Protocol
from loadtest.plots import plot_soak
from loadtest.report import describe, judged, write_report
from loadtest.schedule import Arrivals
from loadtest.soak import WARM_UP_SHARE, sampling, soak_checks
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
    protocol: options.ProtocolOption = Protocol.GRPC,
    workers: options.Workers = 1,
    mix: options.Mix = options.DEFAULT_MIX,
    zipf: options.Zipf = 1.0,
    seed: options.Seed = 0,
    bundle: options.Bundle = None,
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
    chosen = LoadOptions(
        url=None,
        metrics_url=None,
        protocol=protocol,
        bundle=bundle,
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
            ServerError, GeneratorError, CapacityError, NothingMeasuredError, PreparedDatasetError, ValueError
        ),
        chosen.running(console) as (target, plan),
    ):
        found = rate or capacity_runs(target, plan, CapacityPlan(), folder, console.print)[0].rate
        broken = _soak(
            plan, target, console, folder, share * found, minutes * 60, every, max_growth, max_p99_over_p50
        )
    if broken:
        typer.secho("\n".join(broken), fg="red", err=True)
        raise typer.Exit(1)


def _soak(
    plan: LoadPlan,
    target: LoadTarget,
    console: Console,
    out: Path,
    rate: float,
    seconds: float,
    every_s: float,
    max_growth: float,
    max_p99_over_p50: float,
) -> list[str]:
    console.print(f"{rate:.4g} requests a second for {seconds:g} s", soft_wrap=True)
    warm_up_s = WARM_UP_SHARE * seconds
    watch = target.watch()
    with Generators(plan, out) as generators, sampling(watch, every_s) as samples:
        windows = Windows(plan, generators, watch, out)
        window = windows.run(Arrivals.POISSON, rate, seconds=seconds - warm_up_s, warm_up_s=warm_up_s)
    measured = window.measured
    checks = soak_checks(measured, samples, max_growth=max_growth, max_p99_over_p50=max_p99_over_p50)
    write_report(
        out / "soak.json",
        {
            **describe(plan, target.server),
            "rate": rate,
            "seconds_of_load": seconds,
            "warm_up_s": warm_up_s,
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
        title=f"{rate:.4g} requests a second, {plan.protocol.value}",
    )
    for check in checks:
        console.print(f"{'kept' if check.kept else 'BROKEN'}: {check}", soft_wrap=True)
    console.print(f"written to {out}: soak.json, soak.png", soft_wrap=True)
    return violations(checks)
