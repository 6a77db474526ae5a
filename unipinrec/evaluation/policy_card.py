"""A trained policy and an exploration log to the card that says what the policy is worth."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from unipinrec.data.exploration import ExplorationLog
from unipinrec.data.interactions import InteractionDataset
from unipinrec.evaluation.scored_log import score_log
from unipinrec.models.policy.card import Evidence, PolicyCard, Source, Window
from unipinrec.models.policy.choice import choose, default_limits, find_candidate
from unipinrec.models.policy.config import PolicyConfig, PolicyTraining
from unipinrec.models.policy.examples import split_by_time
from unipinrec.models.policy.judged import HeldOut
from unipinrec.models.policy.offline import Progress
from unipinrec.models.policy.sweep import KNEE, Report, sweep
from unipinrec.training.checkpoint import CheckpointMismatchError, fingerprint, load_state


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """Which operating point is wanted, and what it must reach."""

    point: str = KNEE
    """One of `POINTS`; without a meaning where there is an alpha."""
    alpha: float | None = None
    by_cohort: bool = False
    limits: Mapping[str, float]
    """By guardrail; those that are left out have their default."""


def make_card(
    checkpoint: Path,
    interactions: InteractionDataset,
    log: ExplorationLog,
    wish: Wish,
    progress: Progress,
    report: Report,
) -> PolicyCard:
    """Return the card of a policy, by the explored requests of the log that its training left out.

    `progress` is told how many of them are scored, `report` what is judged.

    Raises:
        CheckpointMismatchError: the policy was trained on another dataset or another log.
        NoSupportError: an arm was not logged in one half of the users.
        ValueError: there is no such operating point or guardrail.
    """
    state = load_state(checkpoint)
    learned, late = _windows(checkpoint, log)
    scored = score_log(checkpoint, interactions, late, progress)
    config = PolicyConfig.model_validate(state.model.model_dump())
    requests = HeldOut(
        log=late, value_RKM=scored.value_RKM, cohort_R=scored.cohort_R, cohorts=config.cohort_names
    )
    swept = sweep(requests, alpha=wish.alpha, report=report)
    rewards = log.info.rewards
    candidate = find_candidate(swept, point=wish.point, alpha=wish.alpha, by_cohort=wish.by_cohort)
    choice = choose(candidate, rewards, {**default_limits(rewards), **wish.limits})
    return PolicyCard(
        fingerprint=fingerprint(checkpoint),
        synthetic=log.info.synthetic,
        arms=log.info.arms,
        rewards=rewards,
        cohorts=config.cohort_names,
        chosen=choice.chosen,
        why=choice.why,
        guardrails=choice.guardrails,
        evidence=Evidence(
            made_at=datetime.now(UTC),
            dataset=Source(name=interactions.info.name, sha256=interactions.info.sha256),
            log=Source(name=log.info.name, sha256={"exploration": log.info.sha256}),
            training=_window(learned),
            evaluation=_window(late),
            training_config=PolicyTraining.model_validate(state.training.model_dump()),
            sweep=swept,
        ),
    )


def _windows(checkpoint: Path, log: ExplorationLog) -> tuple[ExplorationLog, ExplorationLog]:
    """Return the explored requests that training had, and those that it left out."""
    state = load_state(checkpoint)
    if not isinstance(state.training, PolicyTraining) or state.dataset.get("exploration") != log.info.sha256:
        raise CheckpointMismatchError(
            f"{checkpoint} was not trained on log {log.info.name}; allowed: the log of its training"
        )
    early, late = split_by_time(log, state.training.evaluation_share)
    return early[early.explored_R], late[late.explored_R]


def _window(log: ExplorationLog) -> Window:
    return Window(
        requests=len(log),
        users=len(set(log.user_id_R)),
        first=int(log.timestamp_R[0]),
        last=int(log.timestamp_R[-1]),
    )
