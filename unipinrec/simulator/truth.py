"""The truth behind a simulated log: every action's probability, for every feedview and item.

Shapes: F feedviews by user and time, as `InteractionDataset.feedviews` has them, V items, U users, D latent
width, A actions, B feedviews asked for, P pairs of feedview and item.
"""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from unipinrec.arrays import Bools, Float32s, Int64s
from unipinrec.data.prepared import EVENTS, PreparedDatasetError, read_info
from unipinrec.simulator.choice import ACTIONS, conditional_probabilities, marginal_probabilities
from unipinrec.simulator.config import SimulatorConfig

TRUTH = "truth.safetensors"
CHUNK = 64
"""Feedviews whose probabilities are computed at once."""

Index = NDArray[np.integer[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """What the log does not tell. Rows of items and users are those of the prepared dataset."""

    config: SimulatorConfig
    user_F: Int64s
    timestamp_F: Int64s
    """Unix seconds of the first row."""
    explored_F: Bools
    """Feedviews whose items all were drawn uniformly."""
    session_F: Int64s
    """Number of the session among its user's, from 0."""
    topic_F: Int64s
    taste_FD: Float32s
    """The user's taste while the feedview was shown: unit vectors."""
    topic_V: Int64s
    latent_VD: Float32s
    item_propensity_VA: Float32s
    cold_V: Bools
    """Items that the log never shows."""
    user_propensity_UA: Float32s

    def __len__(self) -> int:
        return len(self.user_F)

    def action_probabilities(self, feedview_index_B: Index) -> Float32s:
        """Return every action's marginal probability, had the item been shown in that feedview: [B, V, A].

        The answer takes `16 x V` bytes a feedview; what is needed on the way is bounded.
        """
        answer_BVA = np.empty((len(feedview_index_B), len(self.latent_VD), len(ACTIONS)), np.float32)
        for begin in range(0, len(feedview_index_B), CHUNK):
            chunk = slice(begin, begin + CHUNK)
            feedview_B = feedview_index_B[chunk]
            affinity_BV = self.taste_FD[feedview_B] @ self.latent_VD.T
            own_BA = self.user_propensity_UA[self.user_F[feedview_B]]
            answer_BVA[chunk] = self._marginal(affinity_BV, self.item_propensity_VA + own_BA[:, None])
        return answer_BVA

    def shown_probabilities(self, feedview_index_P: Index, item_row_P: Index) -> Float32s:
        """Return marginal probabilities for pairs of feedview and item, [P, A]."""
        affinity_P = np.einsum("pd,pd->p", self.taste_FD[feedview_index_P], self.latent_VD[item_row_P])
        own_PA = self.user_propensity_UA[self.user_F[feedview_index_P]]
        return self._marginal(affinity_P, self.item_propensity_VA[item_row_P] + own_PA)

    def save(self, folder: Path) -> None:
        """Write the truth beside the events of the prepared dataset `folder`, and note their hash."""
        arrays = {name: np.ascontiguousarray(getattr(self, name)) for name in _ARRAYS}
        metadata = {"config": self.config.model_dump_json(), "events": read_info(folder).sha256[EVENTS]}
        partial = folder / f".partial-{TRUTH}"
        save_file(arrays, partial, metadata)
        partial.rename(folder / TRUTH)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read the truth of a prepared dataset.

        Raises `PreparedDatasetError` if the dataset has no truth, or that of other events.
        """
        expected = read_info(folder).sha256[EVENTS]
        if not (folder / TRUTH).is_file():
            raise PreparedDatasetError(f"dataset {folder} has no {TRUTH}, as only simulated ones have")
        try:
            with safe_open(folder / TRUTH, framework="np") as stored:
                metadata = stored.metadata() or {}
                arrays = {name: stored.get_tensor(name) for name in _ARRAYS}
            config = SimulatorConfig.model_validate_json(metadata.get("config", ""))
        except (SafetensorError, ValidationError) as error:
            raise PreparedDatasetError(f"dataset {folder}: {TRUTH} is unreadable: {error}") from error
        found = metadata.get("events")
        if found != expected:
            raise PreparedDatasetError(
                f"dataset {folder}: {TRUTH} is that of events {found}; allowed: {expected}"
            )
        return cls(config=config, **arrays)

    def _marginal(self, affinity: Float32s, propensity_A: Float32s) -> Float32s:
        conditional_A = conditional_probabilities(affinity, propensity_A, self.config.choice)
        return marginal_probabilities(conditional_A).astype(np.float32)


_ARRAYS = tuple(field.name for field in fields(Truth) if field.name != "config")


def external_user_ids(users: int) -> NDArray[np.str_]:
    """Return external ids, in the same order as the numbers, [U]."""
    return np.array([f"u{user:07d}" for user in range(users)])
