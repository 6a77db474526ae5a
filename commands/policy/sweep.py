"""`unipinrec policy sweep`: 25 alphas judged, and an operating point chosen."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from commands.errors import one_line_errors
from commands.progress import progress_bar
from experiments.frontier_page import PAGE, write_page, write_picture
from unipinrec.data.exploration import ExplorationLog, ExplorationLogError
from unipinrec.data.interactions import InteractionDataset
from unipinrec.data.prepared import PreparedDatasetError
from unipinrec.evaluation.policy_card import Wish, make_card
from unipinrec.models.policy.card import CARD, PolicyCard, PolicyNumbers, Sweep
from unipinrec.models.policy.choice import told_alphas, told_lift, told_rail
from unipinrec.models.policy.sweep import KNEE, LEAN_FIRST, LEAN_SECOND
from unipinrec.training.checkpoint import CheckpointMismatchError, latest_checkpoint

REMEDY = (
    "To have a point chosen: more explored requests, which narrow intervals, another --point or --alpha, or "
    "--guardrail with limits that you can bear. Until one is set, answers have the production weights."
)


class Point(StrEnum):
    """Operating points by name."""

    LEAN_FIRST = LEAN_FIRST
    KNEE = KNEE
    LEAN_SECOND = LEAN_SECOND


def sweep_command(
    dataset: Annotated[Path, typer.Option(help="Folder of the prepared dataset with the users' events.")],
    log: Annotated[Path, typer.Option(help="Folder of the exploration log that the policy was trained on.")],
    training: Annotated[Path, typer.Option(help="Folder that `unipinrec policy train` wrote.")],
    out: Annotated[Path, typer.Option(help=f"Folder for {CARD} and {PAGE}.")],
    point: Annotated[
        Point | None,
        typer.Option(help=f"Operating point to choose; default: {KNEE}, unless there is --alpha."),
    ] = None,
    alpha: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="Alpha to choose, whatever the frontier.")
    ] = None,
    by_cohort: Annotated[
        bool, typer.Option("--by-cohort", help="Choose an alpha for every cohort that is large enough.")
    ] = False,
    guardrail: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=LIMIT, again for a further one: lift:REWARD, the lower end of its interval (-0.02), "
            "hits (100) or effective_requests (100). Where one fails, the production weights are chosen."
        ),
    ] = None,
    picture: Annotated[
        Path | None, typer.Option(help="PNG or SVG file of what the page shows first.")
    ] = None,
) -> None:
    """Judge 25 alphas on held-out exploration and choose one; write its card and a page to look at it."""
    console = Console(highlight=False)
    with one_line_errors(ValueError, PreparedDatasetError, CheckpointMismatchError, ExplorationLogError):
        if alpha is not None and (point or by_cohort):
            raise ValueError("--alpha stands beside --point or --by-cohort; allowed: one of them")
        checkpoint = latest_checkpoint(training)
        if checkpoint is None:
            raise FileNotFoundError(
                f"--training is {training}, which holds no checkpoint; run `unipinrec policy train`"
            )
        wish = Wish(
            point=point or KNEE, alpha=alpha, by_cohort=by_cohort, limits=dict(map(_limit, guardrail or []))
        )
        interactions, explored = InteractionDataset.load(dataset), ExplorationLog.load(log)
        with progress_bar(console) as progress:
            task = progress.add_task("scoring arms of held-out requests", total=None)
            card = make_card(
                checkpoint,
                interactions,
                explored,
                wish,
                lambda done, total: progress.update(task, completed=done, total=total),
                progress.console.print,
            )
        out.mkdir(parents=True, exist_ok=True)
        (out / CARD).write_text(card.model_dump_json(indent=1))
        write_page(card, out / PAGE)
        if picture is not None:
            write_picture(card, picture)
    if card.evidence is not None:
        console.print(_table(card, card.evidence.sweep))
    for rail in card.guardrails:
        console.print(f"guardrail {rail.name}: {told_rail(rail)}", soft_wrap=True, end="")
        console.print(", holds" if rail.passed else ", [red]fails[/red]")
    console.print(card.why, soft_wrap=True)
    if card.chosen is None:
        console.print(REMEDY, soft_wrap=True)
    console.print(f"written to {out}: {CARD}, {PAGE}", soft_wrap=True)


def _limit(text: str) -> tuple[str, float]:
    name, _, limit = text.partition("=")
    try:
        return name, float(limit)
    except ValueError:
        raise ValueError(f"guardrail is {text!r}; allowed: NAME=LIMIT, such as hits=100") from None


def _table(card: PolicyCard, sweep: Sweep) -> Table:
    kind = "SYNTHETIC, " if card.synthetic else ""
    group = sweep.everyone
    table = Table(
        title=f"{kind}{group.requests:,} held-out explored requests of {group.users:,} users",
        caption="Lifts over production by SNDR with 95 % intervals over users. Alphas in grey are dominated. "
        f"Operating points were chosen on {sweep.choosing.users:,} other users.",
    )
    first, second = card.rewards
    for name in (
        "policy",
        f"lift of {first}",
        f"lift of {second}",
        f"mean weights of {first}, {second}",
        "hits",
    ):
        table.add_column(name, justify="left" if name == "policy" else "right")
    for point in sweep.everyone.alphas:
        table.add_row(f"alpha {point.alpha:.3f}", *_cells(point), style="dim" if point.dominated else "")
    table.add_section()
    for candidate in sweep.candidates:
        name = f"{candidate.name}: {told_alphas(candidate.alphas)}"
        table.add_row(name, *_cells(candidate), style="bold" if candidate.alphas == card.chosen else "")
    return table


def _cells(numbers: PolicyNumbers) -> tuple[str, str, str, str]:
    first, second = numbers.weights
    lifts = told_lift(numbers.first.lift), told_lift(numbers.second.lift)
    return (*lifts, f"{first:.3g}, {second:.3g}", f"{numbers.hits:,}")
