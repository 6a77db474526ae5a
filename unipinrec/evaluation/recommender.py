"""What evaluations ask of a model, whichever it is.

Shapes: B users, V items, K candidates, A actions, S steps, X outcomes asked for, O time offsets,
E item width.
"""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from unipinrec.arrays import Int64s
from unipinrec.models.common.offline import OfflineRequest


class Retriever(Protocol):
    """Scores a whole catalogue."""

    def retrieval_scores(self, requests: Sequence[OfflineRequest]) -> Tensor:
        """Return a score of every item for each request, [B, V]; higher is better."""


class Ranker(Protocol):
    """Predicts what users do to candidates."""

    def action_probabilities(
        self, requests: Sequence[OfflineRequest], candidates: Sequence[Int64s]
    ) -> list[Tensor]:
        """Return probabilities [K, A] of each request's candidate rows [K]."""


class QueryEmbedder(Protocol):
    """Retrieves by query embeddings, of which a request may have several."""

    item_vector_VE: Tensor

    def query_embeddings(
        self, requests: Sequence[OfflineRequest], outcomes: Sequence[int], steps: int, leading_outcome: int
    ) -> Tensor:
        """Return query embeddings [B, S, X, O, E] of every step, outcome asked for and time offset."""
