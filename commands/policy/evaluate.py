"""`unipinrec policy evaluate`: what a policy would have earned in logged exploration."""

import math
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from commands.errors import one_line_errors
from commands.progress import progress_bar
from unipinrec.data.choices import read_choices, read_values
from unipinrec.data.events import EventFormatError
from unipinrec.data.exploration import ExplorationLog, ExplorationLogError
from unipinrec.data.interactions import InteractionDataset
from unipinrec.data.prepared import PreparedDatasetError
from unipinrec.evaluation.bootstrap import Estimate
from unipinrec.evaluation.policy_report import PolicyReport, Support
from unipinrec.evaluation.scored_log import score_log
from unipinrec.models.policy.config import PolicyTraining
from unipinrec.models.policy.examples import split_by_time
from unipinrec.models.policy.judged import best_arms
from unipinrec.training.checkpoint import (
    CheckpointMismatchError,
    fingerprint,
    latest_checkpoint,
    load_state,
)

ERRORS = (ValueError, EventFormatError, ExplorationLogError, PreparedDatasetError, CheckpointMismatchError)


def evaluate_command(
    log: Annotated[Path, typer.Option(help="Folder of an exploration log.")],
    policy: Annotated[
        Path | None,
        typer.Option(help="Choices of any policy: request_id, and arm or the chances of all arms."),
    ] = None,
    values: Annotated[
        Path | None,
        typer.Option(
            help="What a model expects, for DM and DR: request_id, and a list of a number for each arm in "
            "value_REWARD. It must not have learned from these requests."
        ),
    ] = None,
    training: Annotated[
        Path | None,
        typer.Option(help="Instead of --policy: folder that `unipinrec policy train` wrote."),
    ] = None,
    dataset: Annotated[
        Path | None, typer.Option(help="With --training: folder of the prepared dataset.")
    ] = None,
    alpha: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="With --training: weight of the second reward.")
    ] = None,
    clip: Annotated[
        float | None, typer.Option(help="Weights above this count as this; default: none is cut down.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Estimate what a policy would have earned in a log's explored requests, beside the production weights.

    Give --policy, or --training, --dataset and --alpha. On the log of its training, a policy is judged by
    the requests that training left out.
    """
    with one_line_errors(*ERRORS):
        explored = _explored(ExplorationLog.load(log))
        if policy is not None and training is None and dataset is None and alpha is None:
            report = PolicyReport.of(
                explored,
                read_choices(policy, explored),
                policy.name,
                value_RKM=None if values is None else read_values(values, explored),
                clip=clip,
            )
        elif not (policy or values or training is None or dataset is None or alpha is None):
            report = _of_training(explored, training, InteractionDataset.load(dataset), alpha, clip)
        else:
            raise ValueError(
                "a policy is given in no way or in two; allowed: --policy, with or without --values, or "
                "--training, --dataset and --alpha"
            )
    if as_json:
        typer.echo(report.model_dump_json(indent=1))
    else:
        _show(report, Console(highlight=False))


def _explored(log: ExplorationLog) -> ExplorationLog:
    explored = log[log.explored_R]
    if not len(explored):
        raise ValueError(f"log {log.info.name} has {len(log)} requests, none explored; allowed: 1 or more")
    return explored


def _of_training(
    log: ExplorationLog, folder: Path, interactions: InteractionDataset, alpha: float, clip: float | None
) -> PolicyReport:
    checkpoint = latest_checkpoint(folder)
    if checkpoint is None:
        raise FileNotFoundError(
            f"--training is {folder}, which holds no checkpoint; run `unipinrec policy train`"
        )
    state = load_state(checkpoint)
    if isinstance(state.training, PolicyTraining) and state.dataset.get("exploration") == log.info.sha256:
        _, log = split_by_time(log, state.training.evaluation_share)
    with progress_bar(Console(stderr=True)) as progress:
        task = progress.add_task("scoring arms", total=len(log))
        value_RKM = score_log(
            checkpoint, interactions, log, lambda done, _: progress.update(task, completed=done)
        ).value_RKM
    name = f"{fingerprint(checkpoint)[:12]} at alpha {alpha:g}"
    return PolicyReport.of(log, best_arms(value_RKM, alpha), name, value_RKM=value_RKM, clip=clip)


def _show(report: PolicyReport, console: Console) -> None:
    kind = "SYNTHETIC " if report.synthetic else ""
    console.print(
        f"{report.policy} in {report.requests:,} explored {kind}requests of {report.users:,} users "
        f"(log {report.log})\npolicy: {_told(report.support)}\n"
        f"production: {_told(report.production_support)}",
        soft_wrap=True,
    )
    for reward, comparisons in report.rewards.items():
        table = Table(title=f"{reward}: mean and 95 % interval over users", title_justify="left")
        for column in ("estimator", "policy", "less production", "in percent of it"):
            table.add_column(column, justify="left" if column == "estimator" else "right")
        for estimator, found in comparisons.items():
            table.add_row(
                estimator.upper(),
                _interval(found.policy, ".4f"),
                _interval(found.difference, "+.4f"),
                _lift(found.lift),
            )
        console.print(table)


def _interval(estimate: Estimate, form: str) -> str:
    return f"{estimate.mean:{form}}\n{estimate.low:{form}} to {estimate.high:{form}}"


def _lift(lift: Estimate) -> str:
    """The interval in percent; an end that resamples where production earned 0 leave open has no number."""
    if not math.isfinite(lift.mean):
        return "none, it is 0"
    low, high = (f"{end:+.2%}" if math.isfinite(end) else "any" for end in (lift.low, lift.high))
    return f"{lift.mean:+.2%}\n{low} to {high}"


def _told(support: Support) -> str:
    clipped = f", {support.clipped:.1%} of them clipped" if support.clipped else ""
    return (
        f"{support.hits:,} hits{clipped}, worth {support.effective_requests:,.0f} requests of equal weight; "
        f"mean weight {support.mean_weight:.3f}"
    )
