"""`unipinrec bench`: what serving costs and what else it could cost, measured on this machine."""

import signal
from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import torch
import typer
from unipinrec_client import RecommendError

from benchmarks.ann import BUDGET, LEFT_OUT, Device, measure
from benchmarks.ann import plot as plot_ann
from benchmarks.faults import FaultsPlan, measure_faults
from benchmarks.flood import FloodPlan, measure_flood
from benchmarks.gpu.run import GpuBench, Part
from benchmarks.gpu.shape import SHAPES
from benchmarks.gpu.show import plot as plot_gpu
from benchmarks.gpu.show import show as show_gpu
from benchmarks.policy import PolicyPlan, measure_policy
from benchmarks.rollouts import RolloutPlan, measure_rollouts
from benchmarks.second_ranker import SecondRankerPlan, measure_second_ranker
from benchmarks.sweep.appends import appends
from benchmarks.sweep.growth import growth
from benchmarks.sweep.items import item_changes
from benchmarks.sweep.nearest import nearest_events
from benchmarks.sweep.options import options
from benchmarks.sweep.precision import precision
from benchmarks.sweep.sweep import SweepReport, plot, tables
from benchmarks.synthetic_vectors import LEARNED_NOISE
from benchmarks.unified.plan import FULL, QUICK, Kind
from benchmarks.unified.run import Benchmark
from benchmarks.unified.show import plot as plot_unified
from benchmarks.unified.show import show as show_unified
from benchmarks.unified.stacks import FillError
from commands.errors import NO_GPU, one_line_errors
from ensemble.gpu_presence import NoGpuError, require_gpu
from ensemble.index.cuda.item_search import require_gpu as require_faiss_gpu
from ensemble.server.server_error import ServerError
from ensemble.settings import ServingSettings
from ensemble.stores.history_store import StoreError
from export.bundle_writer import DatasetMismatchError
from loadtest.generators import GeneratorError
from loadtest.measures import NothingMeasuredError
from loadtest.render import narrator, plain_console
from loadtest.report import write_report
from unipinrec.bundle import BundleError
from unipinrec.data.interactions import InteractionDataset
from unipinrec.data.prepared import PreparedDatasetError
from unipinrec.models.config import PRESETS
from unipinrec.training.checkpoint import latest_checkpoint

OUT = Path("build/bench")
MOST_SHOWN = 10
"""Wrong answers that are told one by one."""

SMALLEST = BUDGET + LEFT_OUT
SERVED = (ServerError, FillError, GeneratorError, NothingMeasuredError, MemoryError)
"""What a run with a server can end with."""

app = typer.Typer(help="Measure what serving costs on this machine.", no_args_is_help=True)


@app.command("unified")
def bench_unified(
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
    # A SIGTERM ends the run in order too, with the server stopped and its shared memory removed.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console = plain_console()
    with one_line_errors(*SERVED):
        report = Benchmark(plan, narrator(console)).run()
    plot_unified(report, plan.out)
    show_unified(console, report)
    console.print(f"report and pictures written to {plan.out}, after {report.minutes:.1f} minutes")
    if report.correctness.differences:
        _fail("answers differ from offline PyTorch:", report.correctness.differences)


@app.command("ann")
def bench_ann(
    sizes: Annotated[
        str, typer.Option(help="Catalogue sizes, with commas between.")
    ] = "10000,30000,100000,1000000",
    noise: Annotated[
        float,
        typer.Option(
            min=0.0, help="Spread of items within a cluster over that of clusters: 3 is hardly clustered."
        ),
    ] = LEARNED_NOISE,
    device: Annotated[
        Device,
        typer.Option(help="With cuda, flat, ivf and cagra on the GPU too; exit code 3 without one."),
    ] = "cpu",
    out: Annotated[Path, typer.Option(help="Folder of the report ann.json and the picture ann.png.")] = OUT,
) -> None:
    """Measure recall, latency, build time and size of every kind of item index on synthetic vectors."""
    if device == "cuda":
        with one_line_errors(NoGpuError, code=NO_GPU):
            require_faiss_gpu("device")
    with one_line_errors(ValueError):
        report = measure(_numbers(sizes), narrator(plain_console()), noise, device)
    plot_ann(report, out / "ann.png")
    _finish(report, out)


@app.command("gpu")
def bench_gpu(
    only: Annotated[
        list[Part] | None,
        typer.Option(help="A part alone; may be given several times. Left out, all of them in this order."),
    ] = None,
    shape: Annotated[
        Literal["paper", "tiny"], typer.Option(help="Sizes; tiny is a dry run of a minute or two.")
    ] = "paper",
    items: Annotated[int, typer.Option(min=2_000, help="Items of the served catalogue.")] = 100_000,
    requests: Annotated[
        int, typer.Option(min=1, help="Random requests whose answers are compared.")
    ] = 100_000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the random requests.")] = 1,
    out: Annotated[
        Path, typer.Option(help="Folder of bundles, logs, the report gpu.json and the picture gpu.png.")
    ] = OUT,
) -> None:
    """Measure ranking forwards as in UniPinRec's Table 2, then unified against separate through Triton.

    The parts add themselves to one report, so that each can be a command of its own of up to ten minutes.
    Exit code 3 without a GPU; 1 if an answer differs by more than bfloat16 explains.
    """
    with one_line_errors(NoGpuError, code=NO_GPU):
        require_gpu("bench gpu measures on a GPU", "")
    # What it imports wants the CUDA runtime's bindings.
    from ensemble.executors.cuda.cuda_engine import set_up_gpu

    # A SIGTERM ends the run in order too, with the server stopped and its shared memory removed.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console = plain_console()
    parts = [part for part in Part if not only or part in only]
    with one_line_errors(*SERVED):
        allocator, options = set_up_gpu(ServingSettings(), torch.cuda.current_device())
        bench = GpuBench(
            allocator=allocator,
            options=options,
            shape=SHAPES[shape],
            items=items,
            requests=requests,
            seed=seed,
            out=out.absolute(),
            tell=narrator(console),
        )
        report = bench.run(parts)
    plot_gpu(report, bench.out / "gpu.png")
    show_gpu(console, report)
    console.print(f"report written to {bench.out / 'gpu.json'}")
    if Part.ANSWERS in parts and report["answers"]["differences"]:
        _fail("answers differ from PyTorch on the GPU:", report["answers"]["differences"])


class Subject(StrEnum):
    """What can be swept."""

    GROWTH = "growth"
    OPTIONS = "options"
    PRECISION = "precision"
    NEAREST = "nearest"
    APPENDS = "appends"
    ITEMS = "items"


@app.command("sweep")
def bench_sweep(
    subject: Annotated[
        Subject,
        typer.Argument(
            help="growth: cost against history, candidates, batch, users and catalogue; options: other "
            "precisions, compilers and storage; precision: what fewer bits cost in held-out quality; "
            "nearest: the second ranker's search; appends: events that callers add, with a server; "
            "items: those that callers add and remove, under load."
        ),
    ],
    most: Annotated[
        int | None, typer.Option(min=1, help="Sizes of each sweep of growth and nearest, the smallest first.")
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=0.001, help="Length of calls of which the median counts.")
    ] = 0.5,
    bundle: Annotated[
        Path, typer.Option(help="Bundle for options, whose users are those of UNIPINREC_HISTORIES.")
    ] = Path("build/bundles/current"),
    training: Annotated[
        Path, typer.Option(help="Folder that `unipinrec train` wrote, for precision.")
    ] = Path("build/checkpoints/demo"),
    dataset: Annotated[Path, typer.Option(help="Prepared dataset it was trained on, for precision.")] = Path(
        "build/data/movielens"
    ),
    users: Annotated[
        int | None, typer.Option(min=2, help="Users at most: 300 for options, all for precision.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the report and its picture.")] = OUT,
) -> None:
    """Vary one thing after another, on one thread of this process, and measure everything at each value."""
    tell = narrator(plain_console())
    expected = (BundleError, StoreError, ServerError, PreparedDatasetError, DatasetMismatchError, ValueError)
    with one_line_errors(*expected):
        if subject is Subject.GROWTH:
            report = growth(seconds, most, tell)
        elif subject is Subject.NEAREST:
            report = nearest_events(seconds, most, tell)
        elif subject is Subject.APPENDS:
            report = appends(out.absolute(), seconds, tell)
        elif subject is Subject.ITEMS:
            report = item_changes(out.absolute(), seconds, tell)
        elif subject is Subject.OPTIONS:
            report = options(bundle, users or 300, seconds, tell)
        else:
            checkpoint = latest_checkpoint(training)
            if checkpoint is None:
                raise FileNotFoundError(
                    f"--training is {training}, which holds no checkpoint; run `unipinrec train`"
                )
            report = precision(checkpoint, InteractionDataset.load(dataset), users, tell)
    plot(report, out / f"{report.subject}.png")
    _finish(report, out)


@app.command("flood")
def bench_flood(
    sizes: Annotated[
        str, typer.Option("--preset", help=f"Size of the model: {', '.join(PRESETS)}.")
    ] = FloodPlan.sizes,
    times: Annotated[float, typer.Option(min=1.0, help="The flood over the capacity.")] = FloodPlan.times,
    seconds: Annotated[float, typer.Option(min=1.0, help="Length of the flood.")] = FloodPlan.seconds,
    deadline_ms: Annotated[
        float, typer.Option(min=1.0, help="What each request says that its caller waits.")
    ] = FloodPlan.deadline_ms,
    callers: Annotated[
        int, typer.Option(min=1, help="Of the closed loop that finds the capacity.")
    ] = FloodPlan.callers,
    without_s: Annotated[
        float,
        typer.Option("--without", min=0.0, help="Seconds of the same flood without admission; 0: none."),
    ] = FloodPlan.without_s,
    out: Annotated[Path, typer.Option(help="Folder of bundle, logs and the report flood.json.")] = OUT,
) -> None:
    """Send a server several times what it can answer: what is answered in time, how soon others are refused.

    Everything is on this machine, the load generator too. Takes about three minutes.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    plan = FloodPlan(
        out=out.absolute(),
        sizes=sizes,
        times=times,
        seconds=seconds,
        capacity_s=min(seconds, FloodPlan.capacity_s),
        after_s=min(seconds, FloodPlan.after_s),
        deadline_ms=deadline_ms,
        callers=callers,
        without_s=without_s,
    )
    plan.out.mkdir(parents=True, exist_ok=True)
    with one_line_errors(*SERVED, StoreError, ValueError):
        report = measure_flood(plan, narrator(plain_console()))
    _finish(report, out)


@app.command("policy")
def bench_policy(
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
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console = plain_console()
    plan = PolicyPlan(out=out.absolute(), sizes=sizes, pairs=pairs, rounds=rounds, seconds=seconds)
    with one_line_errors(*SERVED, ValueError):
        report = measure_policy(plan, narrator(console))
    write_report(out / "policy.json", report.model_dump(mode="json"))
    console.print(report.table())
    console.print(f"report written to {out / 'policy.json'}", soft_wrap=True)


@app.command("second-ranker")
def bench_second_ranker(
    sizes: Annotated[
        str, typer.Option("--preset", help=f"Size of both models: {', '.join(PRESETS)}.")
    ] = SecondRankerPlan.sizes,
    threads: Annotated[int, typer.Option(min=1, help="Of the node alone.")] = SecondRankerPlan.threads,
    calls: Annotated[int, typer.Option(min=2, help="Of the node alone.")] = SecondRankerPlan.calls,
    pairs: Annotated[
        int, typer.Option(min=2, help="Requests that each ensemble gets one at a time, of each kind.")
    ] = SecondRankerPlan.pairs,
    rounds: Annotated[
        int, typer.Option(min=1, help="Windows of load of each ensemble.")
    ] = SecondRankerPlan.rounds,
    seconds: Annotated[
        float, typer.Option(min=0.5, help="Length of a window of load.")
    ] = SecondRankerPlan.seconds,
    out: Annotated[
        Path, typer.Option(help="Folder of bundles, logs and the report second-ranker.json.")
    ] = OUT,
) -> None:
    """Compare recommend_full with recommend on one server, and measure its node l2 alone.

    Users have as many events as TransAct V2 reads, 16,000. Takes up to four minutes.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console = plain_console()
    plan = SecondRankerPlan(
        out=out.absolute(),
        sizes=sizes,
        threads=threads,
        calls=calls,
        pairs=pairs,
        rounds=rounds,
        seconds=seconds,
    )
    with one_line_errors(*SERVED, RecommendError, ValueError):
        report = measure_second_ranker(plan, narrator(console))
    write_report(out / "second-ranker.json", report.model_dump(mode="json"))
    console.print(report.table())
    console.print(f"report written to {out / 'second-ranker.json'}", soft_wrap=True)


@app.command("faults")
def bench_faults(
    sizes: Annotated[
        str, typer.Option("--preset", help=f"Size of the model: {', '.join(PRESETS)}.")
    ] = FaultsPlan.sizes,
    rate: Annotated[float, typer.Option(min=1, help="Requests a second.")] = FaultsPlan.rate,
    repeats: Annotated[int, typer.Option(min=1, help="Of each fault.")] = FaultsPlan.repeats,
    only: Annotated[
        list[str] | None, typer.Option(help="One fault alone, as 'history killed'; may be repeated.")
    ] = None,
    node_window: Annotated[
        float, typer.Option(min=2, help="Seconds of load after a node's fault.")
    ] = FaultsPlan.node_window_s,
    server_window: Annotated[
        float, typer.Option(min=2, help="Seconds of load after a fault of the server or its launcher.")
    ] = FaultsPlan.server_window_s,
    out: Annotated[Path, typer.Option(help="Folder of bundles, logs and the report faults.json.")] = OUT,
) -> None:
    """Kill and stop nodes, server and launcher under load, and compare every answer with what it was before.

    A trial takes 17 s, of the server or the launcher 35; all of them, repeated 20 times, an hour and a half.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console = plain_console()
    plan = FaultsPlan(
        out=out.absolute(),
        sizes=sizes,
        rate=rate,
        repeats=repeats,
        node_window_s=node_window,
        server_window_s=server_window,
        only=tuple(only or ()),
    )
    with one_line_errors(*SERVED, ValueError):
        report = measure_faults(plan, narrator(console))
    write_report(out / "faults.json", report.model_dump(mode="json"))
    console.print(report.table())
    console.print(f"report written to {out / 'faults.json'}", soft_wrap=True)


@app.command("rollouts")
def bench_rollouts(
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
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console = plain_console()
    plan = RolloutPlan(
        out=out.absolute(), sizes=sizes, items=items, changes=changes, rate=rate, seconds=seconds
    )
    with one_line_errors(*SERVED, ValueError):
        report = measure_rollouts(plan, narrator(console))
    write_report(out / "rollouts.json", report.model_dump(mode="json"))
    console.print(report.table())
    console.print(f"report written to {out / 'rollouts.json'}", soft_wrap=True)
    wrong = [what for found in report.answers.values() for what in found.differences]
    if report.failed or report.refused or wrong:
        _fail(
            "requests or rollouts failed, or answers differ:",
            [*map(str, report.failed.items()), *report.refused, *wrong],
        )


def _finish(report: SweepReport, out: Path) -> None:
    path = out / f"{report.subject}.json"
    write_report(path, report.model_dump(mode="json"))
    console = plain_console()
    for made in tables(report):
        console.print(made)
    console.print(f"report written to {path}", soft_wrap=True)


def _fail(what: str, wrong: Sequence[str]) -> NoReturn:
    more = [f"and {len(wrong) - MOST_SHOWN} more"] if len(wrong) > MOST_SHOWN else []
    typer.secho("\n".join([what, *wrong[:MOST_SHOWN], *more]), fg="red", err=True)
    raise typer.Exit(1)


def _numbers(sizes: str) -> list[int]:
    for size in sizes.split(","):
        if not size.isdecimal() or int(size) < SMALLEST:
            raise ValueError(f"sizes is {sizes}; allowed: whole numbers from {SMALLEST}, with commas between")
    return [int(size) for size in sizes.split(",")]
