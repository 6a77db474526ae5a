"""`unipinrec policy simulate`, `import` and `join`: where exploration logs come from."""

from pathlib import Path
from typing import Annotated

import typer

from commands.errors import one_line_errors
from commands.progress import progress_bar
from unipinrec.data.events import EventFormatError
from unipinrec.data.exploration import (
    ExplorationInfo,
    ExplorationLog,
    ExplorationLogError,
    import_log,
    read_arms,
    require_new_log,
)
from unipinrec.data.explored_answers import join
from unipinrec.data.interactions import InteractionDataset
from unipinrec.data.prepared import PreparedDatasetError
from unipinrec.simulator.exploration import simulate_exploration
from unipinrec.simulator.exploration_config import ExplorationConfig
from unipinrec.simulator.truth import Truth

DEFAULT = ExplorationConfig()

Out = Annotated[Path, typer.Option(help="New folder for the exploration log.")]
ArmsFile = Annotated[
    Path,
    typer.Option(
        help="JSON file of the arms (docs/policy-learning.md), or with them: another log's exploration.json."
    ),
]
LogName = Annotated[str | None, typer.Option(help="Name of the log; default: that of OUT.")]


def simulate_command(
    dataset: Annotated[Path, typer.Option(help="Dataset that `unipinrec data simulate` made.")],
    out: Out,
    share: Annotated[float, typer.Option(help="Share of the requests that explore.")] = DEFAULT.share,
    traffic: Annotated[
        int, typer.Option(help="Requests at each feedview; those that explore grow with it.")
    ] = DEFAULT.traffic,
    production_share: Annotated[
        float, typer.Option(help="Share of the other requests that is kept.")
    ] = DEFAULT.production_share,
    seed: Annotated[int, typer.Option(help="The same seed gives the same log.")] = DEFAULT.seed,
    arms: Annotated[
        Path | None,
        typer.Option(help="JSON file of other arms (docs/policy-learning.md); default: of save and share."),
    ] = None,
) -> None:
    """Make a synthetic exploration log whose expected rewards are known for every arm."""
    with one_line_errors(ValueError, PreparedDatasetError), progress_bar() as progress:
        config = ExplorationConfig(
            arms=read_arms(arms) if arms else DEFAULT.arms,
            share=share,
            traffic=traffic,
            production_share=production_share,
            seed=seed,
        )
        require_new_log(out)
        interactions, truth = InteractionDataset.load(dataset), Truth.load(dataset)
        simulated = simulate_exploration(interactions, truth, config, progress)
        simulated.save(out)
    _tell(simulated.log, out)


def import_command(
    log: Annotated[
        Path,
        typer.Option(
            help="The log (docs/policy-learning.md): parquet, CSV, TSV, JSON lines, or a folder of parts."
        ),
    ],
    arms: ArmsFile,
    out: Out,
    name: LogName = None,
) -> None:
    """Check an exploration log and keep it in the form that training and evaluation read."""
    with one_line_errors(EventFormatError, ExplorationLogError):
        require_new_log(out)
        info = ExplorationInfo(name=name or out.name, arms=read_arms(arms), synthetic=False)
        imported = import_log(log, out, info)
    _tell(imported, out)


def join_command(
    answers: Annotated[
        Path, typer.Option(help="JSON lines that the client's exploration_record made of answers.")
    ],
    feedback: Annotated[
        Path,
        typer.Option(
            help="request_id, user_id, item_id, actions (bitmask) of what was acted on: parquet, CSV, TSV or "
            "JSON lines."
        ),
    ],
    arms: ArmsFile,
    out: Out,
    name: LogName = None,
) -> None:
    """Make an exploration log of recorded answers and of what users did with the served items."""
    with one_line_errors(EventFormatError, ExplorationLogError):
        require_new_log(out)
        info = ExplorationInfo(name=name or out.name, arms=read_arms(arms), synthetic=False)
        joined = join(answers, feedback, info)
        joined.log.save(out)
    typer.echo(
        f"{joined.unexplored:,} answers did not explore; {joined.unanswered:,} rows of feedback have no "
        f"answer, {joined.unserved:,} are on items that were not served"
    )
    _tell(joined.log, out)


def _tell(log: ExplorationLog, out: Path) -> None:
    explored = int(log.explored_R.sum())
    kind = "synthetic requests" if log.info.synthetic else "requests"
    typer.echo(f"{len(log):,} {kind} written to {out}, {explored:,} of them explored")
