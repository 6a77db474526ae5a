"""What passes between this project and a rival's process: examples one way, scores the other.

Shapes: V items, C candidates, K seeds.
"""

import json
from pathlib import Path

import numpy as np

from experiments.rivals.budget import Budget, Setting
from experiments.rivals.examples import Examples
from unipinrec.arrays import Float32s
from unipinrec.config import Config
from unipinrec.data.interactions import InteractionDataset

SEARCH, FINAL, BUDGET = "search.npz", "final.npz", "budget.json"
FEWEST_SHOWN = 2
"""Items shown less often in training share one id, as those that training never saw."""
PADDING, SELDOM = 0, 1
"""Item numbers; those with an id of their own follow."""


class Trial(Config):
    """One setting of a rival, trained on all but the validation days."""

    setting: Setting
    validation_auc: tuple[float, ...]
    """After every epoch."""
    seconds: float


class Trained(Config):
    """What a rival's process tells beside the scores."""

    trials: tuple[Trial, ...]
    setting: Setting
    """With the best AUC on the validation days."""
    epochs: int
    parameters: int
    seconds: tuple[float, ...]
    """Of each seed's training with the chosen setting."""


def write_tables(
    path: Path, dataset: InteractionDataset, fitted: Examples, judged: Examples, labels: bool
) -> None:
    """Write the examples to learn from and those to score, of which labels are given for choosing alone."""
    shown_V = np.bincount(fitted.item_C, minlength=len(dataset.item_ids_V))
    known_V = shown_V >= FEWEST_SHOWN
    parts = {"fitted": fitted.arrays(labels=True), "judged": judged.arrays(labels)}
    np.savez(
        path,
        item_number_V=np.where(known_V, known_V.cumsum() + SELDOM, SELDOM),
        attributes_VX=dataset.attributes_VX,
        content_VF=dataset.content_VF,
        surfaces=np.array(len(dataset.info.surfaces)),
        **{f"{part}/{name}": array for part, arrays in parts.items() for name, array in arrays.items()},
    )


def write_budget(path: Path, budget: Budget, actions: tuple[str, ...]) -> None:
    """Write what a rival's process is told: the budget, its settings one by one, and the labels' actions."""
    told = budget.model_dump() | {"label_actions": actions}
    told["settings"] = [setting.model_dump() for setting in budget.settings()]
    path.write_text(json.dumps(told, indent=1) + "\n")


def read_scores(path: Path, seeds: int, candidates: int) -> tuple[Float32s, Trained]:
    """Return a rival's scores [K, C] and how it was trained.

    Raises `ValueError` if there are not as many scores as candidates and seeds, or one is not finite.
    """
    score_KC = np.load(path.with_suffix(".npz"))["score_KC"].astype(np.float32)
    if score_KC.shape != (seeds, candidates):
        raise ValueError(f"{path.name} has scores of {score_KC.shape}; allowed: {(seeds, candidates)}")
    if not np.isfinite(score_KC).all():
        raise ValueError(f"{path.name} has scores that are not finite; allowed: finite ones")
    return score_KC, Trained.model_validate_json(path.with_suffix(".json").read_text())
