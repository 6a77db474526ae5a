"""`unipinrec soak`: constant load for a long time."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from commands.load_options import LoadOptions, checked_rate, fail_if_broken, takes_load
from commands.load_target import LoadTarget
from loadtest.capacity import CapacityPlan, measure_capacity
from loadtest.generator import WindowPlan
from loadtest.generators import Generators
from loadtest.plan import LoadPlan
from loadtest.plots import plot_load
from loadtest.render import plain_console
from loadtest.report import Check, describe, judged, write_report
from loadtest.schedule import Arrivals
from loadtest.soak import SoakPlan, sampling, soak_checks
from loadtest.windows import Windows

LEAST_SAMPLES = 5


# Memory is that of a server of its own.
@takes_load("url", "metrics_url")
def soak(
    load: LoadOptions,
    minutes: Annotated[
        float, typer.Option(min=0.05, max=10_080, help="Length, of which the first fifth warms up.")
    ] = 10.0,
    rate: Annotated[
        float | None,
        typer.Option(callback=checked_rate, help="Capacity in requests a second; default: measured first."),
    ] = None,
    share: Annotated[float, typer.Option(min=0.01, max=1, help="Share of the capacity that is asked.")] = 0.7,
    every: Annotated[
        float, typer.Option(min=0.1, max=3_600, help="Seconds between two looks at memory.")
    ] = 5.0,
    max_growth: Annotated[
        float, typer.Option(min=0, help="Growth of memory that is allowed, as a share.")
    ] = 0.02,
    max_p99_over_p50: Annotated[float, typer.Option(min=1, help="p99 over p50 that is allowed.")] = 3.0,
    arrivals: Annotated[
        Arrivals, typer.Option(help="Gaps between arrivals: even or poisson.")
    ] = Arrivals.EVEN,
) -> None:
    """Keep a server of its own under constant load; write soak.json and soak.png. Code 1 if something grew,
    failed or slowed down."""
    if minutes * 60 < LEAST_SAMPLES * every:
        raise typer.BadParameter(
            f"--every is {every:g}; allowed: at most {minutes * 60 / LEAST_SAMPLES:g} for such a run"
        )
    if arrivals is Arrivals.CLOSED:
        raise typer.BadParameter("--arrivals is closed; allowed: even, poisson")
    console = plain_console()
    with load.running(console) as (target, plan, out), Generators(plan.workers, out) as generators:
        windows = Windows(generators, target.watch())
        if rate is None:
            rate = measure_capacity(windows, plan, CapacityPlan(), 1, console.print)[0].rate
        wanted = SoakPlan(
            rate=share * rate,
            arrivals=arrivals,
            seconds=minutes * 60,
            every_s=every,
            max_growth=max_growth,
            max_p99_over_p50=max_p99_over_p50,
        )
        checks = _soak(windows, plan, wanted, target, console, out)
    fail_if_broken(checks)


def _soak(
    windows: Windows, plan: LoadPlan, wanted: SoakPlan, target: LoadTarget, console: Console, out: Path
) -> list[Check]:
    console.print(
        f"{wanted.rate:.4g} requests a second for {wanted.seconds:g} s, {wanted.arrivals.value} arrivals",
        soft_wrap=True,
    )
    steady = WindowPlan(
        arrivals=wanted.arrivals,
        level=wanted.rate,
        seconds=wanted.seconds - wanted.warm_up_s,
        warm_up_s=wanted.warm_up_s,
        seed=plan.seed,
    )
    with sampling(target.watch(), wanted.every_s) as samples:
        window = windows.run(plan, steady)
    checks = soak_checks(wanted, window.measured, samples)
    found = {
        "soak": asdict(wanted),
        "arrivals": wanted.arrivals.value,
        "warm_up_s": wanted.warm_up_s,
        **asdict(window.measured),
        "usage": asdict(window.usage),
        "nodes": {model: asdict(spent) for model, spent in window.nodes.items()},
        "generator_cores": window.generator_cores,
        "memory": [asdict(sample) for sample in samples],
        **judged(checks),
    }
    write_report(out / "soak.json", describe(plan, target.server) | found)
    plot_load(
        out / "soak.png",
        window.outcomes,
        began_s=window.began_s,
        measured_from_s=wanted.warm_up_s,
        title=f"{wanted.rate:.4g} requests a second, {plan.protocol.value}",
        memory=samples,
    )
    for check in checks:
        console.print(f"{'kept' if check.kept else 'BROKEN'}: {check}", soft_wrap=True)
    console.print(f"written to {out}: soak.json, soak.png", soft_wrap=True)
    return checks
