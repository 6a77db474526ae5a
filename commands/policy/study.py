"""`unipinrec policy study`: how far off-policy estimates can be trusted, where the truth is known."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from experiments.off_policy import LOGS, RESULTS, WORLDS, OffPolicyReport, study


def study_command(
    logs: Annotated[int, typer.Option(min=2, help="Synthetic logs of each world.")] = LOGS,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same logs.")] = 0,
    out: Annotated[Path, typer.Option(help="JSON file to write.")] = RESULTS,
) -> None:
    """Measure errors and coverage of every estimator on synthetic logs: eight minutes."""
    console = Console(highlight=False)

    def shown(numbers: Iterable[int], world: str) -> Iterable[int]:
        return track(numbers, world, console=Console(stderr=True), transient=True)

    report = study(WORLDS, logs, seed, shown)
    report.write(out)
    _show(report, console)
    console.print(f"written to {out}")


def _show(report: OffPolicyReport, console: Console) -> None:
    for found in report.worlds:
        table = Table(
            title=f"{found.world.name} (SYNTHETIC): {report.logs} logs, {found.hits:.0f} hits each, a model "
            f"that explains {found.explained:.0%} of a reward's variance",
            title_justify="left",
        )
        for column in ("estimator", "of", "truth", "bias", "deviation", "coverage", "squared error / HIT's"):
            table.add_column(column, justify="left" if column in ("estimator", "of") else "right")
        for each in found.accuracies:
            table.add_row(
                each.estimator,
                each.quantity,
                f"{each.truth:.4f}",
                f"{each.bias:+.4f}",
                f"{each.deviation:.4f}",
                f"{each.coverage:.1%}",
                f"{each.error_over_hit.mean:.2f}",
            )
        console.print(table)
