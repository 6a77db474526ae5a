"""A trained policy's expectations of an exploration log."""

from pathlib import Path

from unipinrec.bundle import POLICY
from unipinrec.data.exploration import ExplorationLog
from unipinrec.data.interactions import InteractionDataset
from unipinrec.models.policy.offline import OfflinePolicy, Progress, ScoredLog
from unipinrec.training.checkpoint import CheckpointMismatchError, load_model, load_state


def score_log(
    checkpoint: Path,
    interactions: InteractionDataset,
    log: ExplorationLog,
    progress: Progress = lambda *_: None,
) -> ScoredLog:
    """Return what a policy's checkpoint expects of every request of a log under every arm, and the cohorts.

    `progress` is told how many of all requests are scored.

    Raises `CheckpointMismatchError` if the checkpoint is of another model, was trained with another dataset,
    or the log has other arms.
    """
    state = load_state(checkpoint)
    if state.spec != POLICY:
        raise CheckpointMismatchError(f"{checkpoint} holds the model {state.spec}; allowed: {POLICY}")
    if not interactions.info.sha256.items() <= state.dataset.items():
        raise CheckpointMismatchError(
            f"{checkpoint} was trained with another dataset than {interactions.info.name}; "
            "allowed: the dataset of its training"
        )
    policy = OfflinePolicy(load_model(checkpoint))
    if log.info.arms != policy.config.arms:
        raise CheckpointMismatchError(
            f"log {log.info.name} has other arms than {checkpoint}; allowed: those of its training"
        )
    return policy.score(interactions, log, progress)
