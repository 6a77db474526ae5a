"""What a request wants retrieved, and how query embeddings answer it (PinRec §2.5 and §2.7).

Shapes: Q query embeddings of one request, A actions, E item width.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ensemble.arrays import Floats, Int64s
from unipinrec.bundle import Manifest
from unipinrec.models.unified.queries import QueryPlan, merge_similar, plan_queries


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request wants retrieved."""

    request_time: int
    surface: int
    last_event_time: int
    """Unix seconds of the history's last event; 0 where there is none."""
    num_results: int
    outcome_weight_A: Floats


@dataclass(frozen=True, slots=True)
class Queries:
    """The query embeddings of a request in generation order."""

    vector_QE: Floats
    budget_Q: Int64s
    """Items that each may retrieve."""
    origin_Q: NDArray[np.int32]
    """What RETRIEVED_BY reports of each."""


class QueryPlanner:
    """Which query embeddings to generate, and which of them to search with, by the bundle's defaults."""

    def __init__(self, manifest: Manifest) -> None:
        self._model = manifest.model
        self._defaults = manifest.defaults

    @property
    def steps(self) -> int:
        """The most steps that a request takes."""
        return self._defaults.retrieval_steps

    def plan(self, asked: Asked) -> QueryPlan:
        """Return the query embeddings that a request gets."""
        wanted = min(self._defaults.over_fetch * asked.num_results, self._model.max_candidates)
        return plan_queries(wanted, asked.outcome_weight_A, self.steps, len(self._model.time_offsets_s))

    def finish(self, plan: QueryPlan, vector_QE: Floats) -> Queries:
        """Return the embeddings of a plan with those merged that are nearly the same."""
        kept_Q, budget_Q = merge_similar(vector_QE, plan.budget_Q, self._defaults.merge_cosine)
        origin_Q = plan.origins(self._model.num_actions, len(self._model.time_offsets_s))
        return Queries(vector_QE[kept_Q], budget_Q, origin_Q[kept_Q])
