"""`unipinrec bench second-ranker`: what the second ranker costs a request."""

from pathlib import Path
from typing import Annotated

import typer
from unipinrec_client import RecommendError

from benchmarks.second_ranker import SecondRankerPlan, measure_second_ranker
from commands.bench.ending import OUT, SERVED, end_in_order, finish
from commands.errors import one_line_errors
from loadtest.render import narrator, plain_console
from unipinrec.models.config import PRESETS


def second_ranker_command(
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
    end_in_order()
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
    finish(out / "second-ranker.json", report, [report.table()])
