"""Sizes of the unified model, and the demo's training."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any

from pydantic import Field, model_validator

from unipinrec.config import Count
from unipinrec.models.config import JointConfig, JointTraining, sized


class UnifiedConfig(JointConfig):
    """Sizes of one unified model (UniPinRec §1)."""

    time_offsets_s: Annotated[tuple[int, ...], Field(min_length=1, max_length=16)] = (0,)
    """Seconds after the request for which the retrieval head has an embedding each, from 0 on ascending
    (temporal multi-token, PinRec §2.5; the paper names now, 30 s, 1 min and 3 min)."""

    @model_validator(mode="after")
    def _check_offsets(self) -> "UnifiedConfig":
        offsets = self.time_offsets_s
        if offsets[0] != 0 or any(a >= b for a, b in pairwise(offsets)):
            raise ValueError(f"time_offsets_s is {offsets}; allowed: 0, then larger and larger numbers")
        return self


class UnifiedTraining(JointTraining):
    """One training stage for both losses, and for a second query embedding where it is asked for."""

    second_step_weight: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the loss of a second step, at which the query embedding of the first was fed back (PinRec
    §2.5). It learns to find what the first does not. 0: not trained."""
    second_step_offsets_s: Annotated[tuple[Count, ...], Field(max_length=16)] = (3_600, 86_400)
    """Seconds after the request from which on the second step also has targets: the first item with a
    positive action from then on. It always has the next item."""


DEMO_SIZES: Mapping[str, Any] = {
    "layers": 2, "width": 64, "heads": 2, "dropout": 0.2, "head_hidden": 8, "similarity_weight": 15.0,
    "half_lives_s": (900, 86_400, 7 * 86_400, 365 * 86_400),
}  # fmt: skip
"""Changes to the `demo` preset for MovieLens 100K, whose thousand users a larger model learns by heart."""

DEMO_TRAINING = UnifiedTraining(
    epochs=18, batch_size=32, learning_rate=2e-3, ranking_loss_weight=0.3, id_dropout=0.1
)
"""About a minute on two cores for MovieLens 100K."""


def preset(name: str, **fields: Any) -> UnifiedConfig:
    """Return the named sizes of the unified model with other fields set.

    Raises `ValueError` if `name` is not one of `PRESETS`, or a field is unknown, missing or out of range.
    """
    return sized(UnifiedConfig, name, fields)
