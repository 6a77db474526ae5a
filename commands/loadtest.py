"""`unipinrec loadtest`: replayed traffic on a server, by Locust."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from commands import load_options as options
from commands.errors import one_line_errors
from commands.load_options import LoadOptions, load_console, parse_mix
from commands.load_target import LoadTarget
from ensemble.server.server_error import ServerError
from ensemble.stores.history_store import StoreError
from loadtest.locust_run import LocustError, WebUi, run_locust
from loadtest.measures import Measured, NothingMeasuredError, measure
from loadtest.outcomes import read_outcomes
from loadtest.plan import LoadPlan, Protocol
from loadtest.plots import plot_load
from loadtest.report import load_report, write_report
from loadtest.schedule import Arrivals, Shape, duration_s, stages_of
from loadtest.verdict import load_checks, violations
from unipinrec.data.prepared import PreparedDatasetError

RATE = 20.0


def loadtest(
    url: options.Url = None,
    protocol: options.ProtocolOption = Protocol.GRPC,
    rate: Annotated[
        float | None, typer.Option(min=0.1, help=f"Requests due a second, whatever the answers; {RATE:g}.")
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
    seconds: Annotated[float, typer.Option(min=1, help="Seconds that are measured.")] = 30.0,
    warm_up: Annotated[float, typer.Option(min=0, help="Seconds before, which are not.")] = 5.0,
    workers: options.Workers = 1,
    mix: options.Mix = options.DEFAULT_MIX,
    zipf: options.Zipf = 1.0,
    seed: options.Seed = 0,
    max_error_rate: Annotated[float, typer.Option(min=0, max=1, help="More errors fail the run.")] = 0.01,
    max_p99_ms: Annotated[float | None, typer.Option(min=0.1, help="A higher p99 fails the run.")] = None,
    bundle: options.Bundle = None,
    histories: options.Histories = None,
    dataset: options.Dataset = None,
    traffic: options.TrafficFile = None,
    num_results: options.Results = 20,
    timeout: options.Timeout = 10.0,
    web: Annotated[
        bool, typer.Option("--web", help="Locust's web interface on loopback, until Ctrl-C.")
    ] = False,
    web_port: Annotated[int, typer.Option(min=1, max=65535, help="Its port.")] = 8089,
    out: options.Out = options.DEFAULT_OUT,
) -> None:
    """Replay traffic on a server; write HTML, CSV, a picture and JSON. Code 1 if a threshold was broken."""
    if rate is not None and users is not None:
        raise typer.BadParameter(f"--rate is {rate:g} and --users is {users}; allowed: one of them")
    if arrivals is Arrivals.CLOSED and users is None:
        raise typer.BadParameter("--arrivals is closed; allowed: with --users")
    chosen = LoadOptions(
        url=url,
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
    console = load_console()
    level = float(users or rate or RATE)
    stages = stages_of(shape, level, seconds, warm_up_s=warm_up, steps=steps, spike=spike)
    # Without a shape, Locust's own page asks for the number of users and for the time.
    by_hand = web and users is not None and shape is Shape.CONSTANT
    with (
        one_line_errors(
            ServerError, StoreError, LocustError, NothingMeasuredError, PreparedDatasetError, ValueError
        ),
        chosen.running(console) as (target, planned),
    ):
        plan = replace(
            planned,
            arrivals=Arrivals.CLOSED if users else arrivals,
            stages=() if by_hand else stages,
            warm_up_s=warm_up,
        )
        if web:
            _serve_web(plan, chosen.out.absolute(), web_port, console)
            return
        with _progress(console, duration_s(stages)) as progress:
            run_locust(plan, chosen.out.absolute(), progress=progress)
        broken = _report(plan, target, chosen.out.absolute(), console, max_error_rate, max_p99_ms)
    if broken:
        typer.secho("\n".join(broken), fg="red", err=True)
        raise typer.Exit(1)


def _report(
    plan: LoadPlan,
    target: LoadTarget,
    out: Path,
    console: Console,
    max_error_rate: float | None,
    max_p99_ms: float | None,
) -> list[str]:
    outcomes = read_outcomes(Path(plan.outcomes))
    if not outcomes:
        raise NothingMeasuredError("no request was sent; see locust.log")
    began_s = outcomes[0].due_s
    seconds = duration_s(plan.stages) - plan.warm_up_s
    measured = measure(outcomes, warm_up_s=plan.warm_up_s, seconds=seconds, began_s=began_s)
    checks = load_checks(measured, max_error_rate, max_p99_ms)
    write_report(out / "report.json", load_report(plan, target.server, measured, checks))
    plot_load(
        out / "load.png",
        outcomes,
        began_s=began_s,
        measured_from_s=plan.warm_up_s,
        title=f"{plan.protocol.value}, {plan.arrivals.value} arrivals, {measured.rps_reached:.4g} a second",
    )
    console.print(_table(measured))
    console.print(
        f"written to {out}: report.json, load.png, outcomes.csv, locust.html, locust_*.csv", soft_wrap=True
    )
    return violations(checks)


def _table(measured: Measured) -> Table:
    table = Table(
        "requests", "asked/s", "reached/s", "p50 ms", "p90 ms", "p99 ms", "p99.9 ms", "max ms", "errors"
    )
    latencies = (measured.p50_ms, measured.p90_ms, measured.p99_ms, measured.p99_9_ms, measured.max_ms)
    errors = ", ".join(f"{count} {status}" for status, count in measured.errors_by_status.items())
    table.add_row(
        str(measured.requests),
        f"{measured.rps_asked:.4g}",
        f"{measured.rps_reached:.4g}",
        *(f"{latency:.4g}" for latency in latencies),
        errors or "none",
    )
    shares = ", ".join(f"{name or 'unknown'} {share:.0%}" for name, share in measured.kv_source.items())
    table.caption = f"keys and values: {shares}"
    return table


def _serve_web(plan: LoadPlan, out: Path, port: int, console: Console) -> None:
    console.print(f"Locust at http://127.0.0.1:{port} until Ctrl-C", soft_wrap=True)
    try:
        run_locust(plan, out, web=WebUi(port=port))
    except KeyboardInterrupt:
        console.print("Stopping …")


@contextmanager
def _progress(console: Console, seconds: float) -> Iterator[Callable[[float], None]]:
    """A bar on a terminal, else a line at the start."""
    if not console.is_terminal:
        console.print(f"load for {seconds:g} s")
        yield lambda _: None
        return
    columns = (BarColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, refresh_per_second=2) as progress:
        task = progress.add_task("load", total=seconds)
        yield lambda elapsed: progress.update(task, completed=min(elapsed, seconds))
