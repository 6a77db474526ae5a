"""Whether a policy may enter a bundle, with the card that says how it is to be used."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from unipinrec.bundle import POLICY, UNIFIED
from unipinrec.config import first_fault
from unipinrec.data.arms import RELATIVE_TOLERANCE
from unipinrec.models.policy.card import PolicyCard
from unipinrec.models.policy.config import PolicyConfig
from unipinrec.models.unified.config import UnifiedConfig
from unipinrec.training.checkpoint import CheckpointState, fingerprint


class PolicyCardError(Exception):
    """A policy and its card do not belong together, or not into this bundle."""


def checked_card(
    path: Path | None,
    checkpoints: Mapping[str, Path],
    states: Mapping[str, CheckpointState],
    utility_weights: Sequence[float],
) -> str | None:
    """Return the text of a card that fits the policy among the checkpoints, by model; None if there is none.

    Raises `PolicyCardError` if one of the two is missing, the file is no card, the card is of another policy
    or of other static weights than the dataset's `utility_weights`, or the policy reads more events than
    serving keeps for the unified model.
    """
    if POLICY not in checkpoints:
        if path is None:
            return None
        raise PolicyCardError(f"--policy-card is {path}, and no policy is exported; give its --training too")
    if path is None:
        raise PolicyCardError(
            f"{checkpoints[POLICY]} holds a policy without a card; give --policy-card, as "
            "`unipinrec policy sweep` writes it"
        )
    text = path.read_text(encoding="utf-8")
    try:
        card = PolicyCard.model_validate_json(text)
    except ValidationError as error:
        raise PolicyCardError(f"--policy-card is {path}, which is no card: {first_fault(error)}") from error
    found = fingerprint(checkpoints[POLICY])
    if card.fingerprint != found:
        raise PolicyCardError(
            f"--policy-card is of policy {card.fingerprint[:12]}; allowed: {found[:12]}, "
            f"which {checkpoints[POLICY]} holds"
        )
    config = PolicyConfig.model_validate(states[POLICY].model)
    if (card.arms, card.cohorts) != (config.arms, config.cohort_names):
        raise PolicyCardError(f"--policy-card is {path}, which has other arms or cohorts than the policy")
    if not np.allclose(card.arms.production, utility_weights, rtol=RELATIVE_TOLERANCE):
        raise PolicyCardError(
            f"production weights of --policy-card are {list(card.arms.production)}; allowed: those that the "
            f"dataset has for requests without a policy, {list(utility_weights)}"
        )
    if UNIFIED in states:
        unified = UnifiedConfig.model_validate(states[UNIFIED].model)
        kept = unified.max_history - unified.window_block + 1
        if config.max_history > kept:
            raise PolicyCardError(
                f"max_history of the policy is {config.max_history}; allowed: 1 to {kept}, the events that "
                "serving always keeps for the unified model; train the policy with --max-history"
            )
    return text
