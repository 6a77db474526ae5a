"""`unipinrec loadtest`: replayed traffic on a server, by Locust."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from commands.load_options import LoadOptions, checked_rate, fail_if_broken, takes_load
from commands.load_target import LoadTarget
from loadtest.locust_run import run_locust
from loadtest.measures import Measured, NothingMeasuredError, measure
from loadtest.outcomes import read_outcomes
from loadtest.plan import LoadPlan
from loadtest.plots import plot_load
from loadtest.render import plain_console, table
from loadtest.report import Check, describe, judged, write_report
from loadtest.schedule import Arrivals, Shape, duration_s, stages_of

RATE = 20.0


@takes_load("metrics_url")
def loadtest(
    load: LoadOptions,
    rate: Annotated[
        float | None,
        typer.Option(callback=checked_rate, help=f"Requests due a second, whatever the answers; {RATE:g}."),
    ] = None,
    users: Annotated[
        int | None, typer.Option(min=1, help="Instead: users, each of whom waits for the last answer.")
    ] = None,
    arrivals: Annotated[
        Arrivals, typer.Option(help="Gaps between arrivals; `closed` comes with --users.")
    ] = Arrivals.POISSON,
    shape: Annotated[Shape, typer.Option(help="How the load changes.")] = Shape.CONSTANT,
    steps: Annotated[int, typer.Option(min=2, max=100, help="Steps up to the full load.")] = 4,
    spike: Annotated[
        float, typer.Option(min=1, max=100, help="Load of the spike over the load around it.")
    ] = 3.0,
    seconds: Annotated[float, typer.Option(min=1, max=86_400, help="Seconds that are measured.")] = 30.0,
    warm_up: Annotated[float, typer.Option(min=0, max=3_600, help="Seconds before, which are not.")] = 5.0,
    max_error_rate: Annotated[float, typer.Option(min=0, max=1, help="More errors fail the run.")] = 0.01,
    max_p99_ms: Annotated[float | None, typer.Option(min=0.1, help="A higher p99 fails the run.")] = None,
    web: Annotated[
        bool, typer.Option("--web", help="Locust's web interface on loopback, until Ctrl-C.")
    ] = False,
    web_port: Annotated[int, typer.Option(min=1, max=65535, help="Its port.")] = 8089,
) -> None:
    """Replay traffic on a server; write HTML, CSV, a picture and JSON. Code 1 if a threshold was broken."""
    if rate is not None and users is not None:
        raise typer.BadParameter(f"--rate is {rate:g} and --users is {users}; allowed: one of them")
    if arrivals is Arrivals.CLOSED and users is None:
        raise typer.BadParameter("--arrivals is closed; allowed: with --users")
    console = plain_console()
    level = float(users or rate or RATE)
    stages = stages_of(shape, level, seconds, warm_up_s=warm_up, steps=steps, spike=spike)
    # Without a shape, Locust's own page asks for the number of users and for the time.
    by_hand = web and users is not None and shape is Shape.CONSTANT
    with load.running(console) as (target, planned, out):
        plan = replace(
            planned,
            arrivals=Arrivals.CLOSED if users else arrivals,
            stages=() if by_hand else stages,
            warm_up_s=warm_up,
        )
        if web:
            _serve_web(plan, out, web_port, console)
            return
        with console.status(f"load for {duration_s(stages):g} s"):
            run_locust(plan, out)
        measured = _measure(plan, out)
        checks = [Check("error rate", measured.error_rate, max_error_rate)]
        if max_p99_ms is not None:
            checks.append(Check("p99", measured.p99_ms, max_p99_ms, " ms"))
        _report(plan, target, measured, checks, out, console)
    fail_if_broken(checks)


def _measure(plan: LoadPlan, out: Path) -> Measured:
    outcomes = read_outcomes(Path(plan.outcomes))
    if not outcomes:
        raise NothingMeasuredError("no request was sent; see locust.log")
    began_s = outcomes[0].due_s
    plot_load(
        out / "load.png",
        outcomes,
        began_s=began_s,
        measured_from_s=plan.warm_up_s,
        title=f"{plan.protocol.value}, {plan.arrivals.value} arrivals",
    )
    end_s = began_s + duration_s(plan.stages)
    return measure(outcomes, plan.arrivals, began_s + plan.warm_up_s, end_s)


def _report(
    plan: LoadPlan,
    target: LoadTarget,
    measured: Measured,
    checks: list[Check],
    out: Path,
    console: Console,
) -> None:
    stages = {"stages": [asdict(stage) for stage in plan.stages], "warm_up_s": plan.warm_up_s}
    report = describe(plan, target.server) | stages | asdict(measured) | judged(checks)
    write_report(out / "report.json", report)
    console.print(_table(measured))
    console.print(
        f"written to {out}: report.json, load.png, outcomes.csv, locust.html, locust_*.csv", soft_wrap=True
    )


def _table(measured: Measured) -> Table:
    errors = ", ".join(f"{count} {status}" for status, count in measured.errors_by_status.items())
    shares = ", ".join(f"{name or 'unknown'} {share:.0%}" for name, share in measured.kv_source.items())
    rates = {"asked/s": measured.rps_asked, "reached/s": measured.rps_reached}
    latencies = {
        name.removesuffix("_ms").replace("_", ".") + " ms": getattr(measured, name)
        for name in ("p50_ms", "p90_ms", "p99_ms", "p99_9_ms", "max_ms")
    }
    row = {name: f"{value:.4g}" for name, value in (rates | latencies).items()}
    shown = {"requests": str(measured.requests), **row, "errors": errors or "none"}
    return table("", [shown], caption=f"keys and values: {shares}")


def _serve_web(plan: LoadPlan, out: Path, port: int, console: Console) -> None:
    console.print(f"Locust at http://127.0.0.1:{port} until Ctrl-C", soft_wrap=True)
    try:
        run_locust(plan, out, web_port=port)
    except KeyboardInterrupt:
        console.print("Stopping …")
