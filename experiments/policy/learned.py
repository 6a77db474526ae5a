"""The policy of this project, trained in a world, with all of its state or parts of it.

Shapes: S states to judge, K arms, M rewards.
"""

import time
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from typing_extensions import override

from unipinrec.arrays import Float32s, Int64s
from unipinrec.data.exploration import ExplorationLog
from unipinrec.data.interactions import InteractionDataset
from unipinrec.models.policy.config import PolicyConfig, PolicyTraining
from unipinrec.models.policy.examples import PolicyBatch, PolicyExamples
from unipinrec.models.policy.log_states import LogStates
from unipinrec.models.policy.module import PolicyGraph, StateTensors
from unipinrec.models.policy.spec import SPEC
from unipinrec.models.policy.state import inputs_of
from unipinrec.training.checkpoint import load_model
from unipinrec.training.trainer import train

SECONDS = "seconds.txt"
ROWS = 1024

HISTORY = ("item_row_BN", "event_actions_BNA", "event_surface_BN", "event_time_BNT", "is_event_BN")
USER = ("user_BU",)

WHOLE = "the whole state"
HIDDEN: Mapping[str, tuple[str, ...]] = {
    WHOLE: (),
    "without the sequence of events": HISTORY,
    "without user attributes": USER,
    "time and surface alone": HISTORY + USER,
}
"""Parts of the state that a variant does not see."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """A trained policy's expectations, and what training cost."""

    value_SKM: Float32s
    seconds: float
    """Of the processor, in training."""


def learn(
    interactions: InteractionDataset,
    training: ExplorationLog,
    judged: ExplorationLog,
    settings: PolicyTraining,
    folder: Path,
    hidden: tuple[str, ...] = (),
) -> Learned:
    """Train a policy in `folder`, or take the one that is finished there, and score all arms of `judged`."""
    config = PolicyConfig(**interactions.catalogue_fields, arms=training.info.arms)
    examples = _PartialExamples(interactions, training, config, settings.seed, hidden)
    folder.mkdir(parents=True, exist_ok=True)
    began = time.process_time()
    with (folder / "training.log").open("a") as log, redirect_stdout(log):
        checkpoint = train(SPEC, examples, config, settings, folder)
    # A run that only found its finished checkpoint keeps the time that training once took.
    if not (folder / SECONDS).exists():
        (folder / SECONDS).write_text(f"{time.process_time() - began:.1f}\n")
    model = load_model(checkpoint)
    graph, states = PolicyGraph(model).eval(), LogStates(interactions, judged, config)
    place_K2 = torch.from_numpy(config.arms.places().astype(np.float32))
    with torch.inference_mode():
        seen = (StateTensors.of(inputs_of(states.windows(rows), config)) for rows in _slices(len(judged)))
        parts = [graph(*_without(state, hidden), place_K2).numpy() for state in seen]
    return Learned(value_SKM=np.concatenate(parts), seconds=float((folder / SECONDS).read_text()))


class _PartialExamples(PolicyExamples):
    """Examples that lack parts of the state."""

    def __init__(
        self,
        interactions: InteractionDataset,
        log: ExplorationLog,
        config: PolicyConfig,
        seed: int,
        hidden: tuple[str, ...],
    ) -> None:
        super().__init__(interactions, log, config, seed)
        self._hidden = hidden

    @override
    def __getitem__(self, rows: Int64s) -> PolicyBatch:
        batch = super().__getitem__(rows)
        return PolicyBatch(_without(batch.state, self._hidden), batch.place_B2, batch.reward_BM)


def _without(state: StateTensors, hidden: tuple[str, ...]) -> StateTensors:
    return state._replace(**{name: torch.zeros_like(getattr(state, name)) for name in hidden})


def _slices(rows: int) -> list[slice]:
    return [slice(start, min(start + ROWS, rows)) for start in range(0, rows, ROWS)]
