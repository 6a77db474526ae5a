"""`unipinrec policy train`: an exploration log to a value network."""

import re
from pathlib import Path
from typing import Annotated

import typer

from commands.errors import one_line_errors
from unipinrec.data.exploration import ExplorationLog
from unipinrec.data.interactions import InteractionDataset
from unipinrec.data.prepared import PreparedDatasetError
from unipinrec.models.policy.config import CohortRule, PolicyConfig, PolicyTraining
from unipinrec.models.policy.examples import PolicyExamples, split_by_time
from unipinrec.models.policy.spec import SPEC
from unipinrec.training.checkpoint import CheckpointMismatchError, fingerprint
from unipinrec.training.hardware import Hardware
from unipinrec.training.trainer import train

DEFAULT = PolicyTraining()
MAX_HISTORY = PolicyConfig.model_fields["max_history"].default
ANY = "any"
RULE = re.compile(r"(?P<name>[^=,]+)=(?P<action>[^:,]+):(?P<days>\d+)/(?P<window_days>\d+)")


def train_command(
    dataset: Annotated[Path, typer.Option(help="Folder of the prepared dataset with the users' events.")],
    log: Annotated[Path, typer.Option(help="Folder of an exploration log.")],
    out: Annotated[Path, typer.Option(help="Folder for checkpoints and TensorBoard logs.")],
    epochs: Annotated[int, typer.Option(help="Passes over the explored requests.")] = DEFAULT.epochs,
    batch_size: Annotated[int, typer.Option(help="Requests in one step.")] = DEFAULT.batch_size,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate.")] = DEFAULT.learning_rate,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = DEFAULT.seed,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda or cuda:N; default: a GPU if there is one.")
    ] = None,
    evaluation_share: Annotated[
        float,
        typer.Option(help="Share of the explored requests, the latest ones, kept for `policy evaluate`."),
    ] = DEFAULT.evaluation_share,
    max_history: Annotated[int, typer.Option(help="Latest events of a user that are read.")] = MAX_HISTORY,
    cohorts: Annotated[
        str | None,
        typer.Option(
            help="Rules NAME=ACTION:DAYS/WINDOW with commas between, in the order in which they are tried: "
            "users with ACTION (or any) on so many of the last WINDOW days. Default: "
            "core=FIRST:4/28,casual=any:4/28, FIRST being the first rewarded action; '' for none."
        ),
    ] = None,
) -> None:
    """Learn what each utility weight brings; a run that was stopped goes on from its last checkpoint."""
    with one_line_errors(ValueError, PreparedDatasetError, CheckpointMismatchError):
        training = PolicyTraining(
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            seed=seed,
            evaluation_share=evaluation_share,
        )
        hardware = Hardware.choose(device, "float32", workers=0)
        interactions, explored = InteractionDataset.load(dataset), ExplorationLog.load(log)
        if cohorts is None:
            cohorts = f"core={explored.info.rewards[0]}:4/28,casual={ANY}:4/28"
        config = PolicyConfig(
            **interactions.catalogue_fields,
            arms=explored.info.arms,
            cohorts=cohort_rules(cohorts),
            max_history=max_history,
        )
        early, late = split_by_time(explored, evaluation_share)
        examples = PolicyExamples(interactions, early, config, seed)
        kind = "synthetic requests" if explored.info.synthetic else "requests"
        typer.echo(
            f"{len(examples):,} explored {kind} to train on, {late.explored_R.sum():,} later ones kept"
        )
        checkpoint = train(SPEC, examples, config, training, out, hardware=hardware)
    typer.echo(f"checkpoint {checkpoint}, policy {fingerprint(checkpoint)[:12]}")


def cohort_rules(text: str) -> tuple[CohortRule, ...]:
    """Return the rules of a text such as `core=save:4/28,casual=any:4/28`.

    Raises `ValueError` if a part is no rule.
    """
    rules = []
    for part in text.split(",") if text else ():
        found = RULE.fullmatch(part.strip())
        if found is None:
            raise ValueError(f"cohort is {part!r}; allowed: NAME=ACTION:DAYS/WINDOW, as core=save:4/28")
        fields = found.groupdict()
        fields["action"] = None if fields["action"] == ANY else fields["action"]
        rules.append(CohortRule.model_validate(fields))
    return tuple(rules)
