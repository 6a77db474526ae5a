"""Which query embeddings a request gets, and how many items each may retrieve (PinRec §2.4 to §2.7).

Shapes: A actions, S steps, O time offsets, Q query embeddings of one request, E item width.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from unipinrec.arrays import Float32s, Float64s, Int64s


@dataclass(frozen=True, slots=True)
class QueryPlan:
    """The query embeddings of one request in generation order: by step, then outcome, then offset."""

    step_Q: Int64s
    outcome_Q: Int64s
    """Action number, or the number of actions for no outcome in particular."""
    offset_Q: Int64s
    budget_Q: Int64s
    leading_outcome: int
    """Whose immediate embedding is fed back: the outcome with the largest budget."""

    @property
    def steps(self) -> int:
        """Return how many steps have a query embedding."""
        return int(self.step_Q[-1]) + 1

    def origins(self, num_actions: int, num_offsets: int) -> NDArray[np.int32]:
        """Return what RETRIEVED_BY reports, [Q]: `(step * (A + 1) + outcome) * O + offset`."""
        code_Q = (self.step_Q * (num_actions + 1) + self.outcome_Q) * num_offsets + self.offset_Q
        origin_Q: NDArray[np.int32] = code_Q.astype(np.int32)
        return origin_Q


def plan_queries(total: int, outcome_weight_A: ArrayLike, steps: int, num_offsets: int) -> QueryPlan:
    """Split a retrieval budget of `total` items over outcomes by weight, and evenly over steps and offsets.

    Without a weight above 0, everything is asked for without an outcome. What gets no item is left out.
    """
    weight_A = np.asarray(outcome_weight_A, np.float64)
    wanted_X = np.append(np.zeros_like(weight_A), 1.0) if not weight_A.any() else np.append(weight_A, 0.0)
    budget_X = split_budget(total, wanted_X)
    each_XP = np.stack([split_budget(budget, np.ones(steps * num_offsets)) for budget in budget_X])
    budget_SXO = each_XP.reshape(len(budget_X), steps, num_offsets).swapaxes(0, 1)
    step_Q, outcome_Q, offset_Q = np.nonzero(budget_SXO)
    return QueryPlan(step_Q, outcome_Q, offset_Q, budget_SXO[budget_SXO > 0], int(budget_X.argmax()))


def split_budget(total: int, weight_X: Float64s) -> Int64s:
    """Split `total` into whole shares in proportion to weights; the largest remainders get what is left.

    Of equal remainders, the earlier one gets it. At least one weight must be above 0.
    """
    # Divided by the largest first: a sum of huge or tiny weights must neither overflow nor vanish.
    weight_X = weight_X / weight_X.max()
    exact_X = total * (weight_X / weight_X.sum())
    share_X: Int64s = np.floor(exact_X).astype(np.int64)
    left = total - int(share_X.sum())
    share_X[np.argsort(share_X - exact_X, kind="stable")[:left]] += 1
    return share_X


def merge_similar(query_QE: Float32s, budget_Q: Int64s, threshold: float) -> tuple[Int64s, Int64s]:
    """Merge each embedding into the most similar earlier kept one with a cosine above `threshold`.

    Works in generation order and adds budgets (PinRec §2.7). Returns the kept places and their budgets. A
    threshold of 1 or more keeps everything.
    """
    cosine_QQ = query_QE @ query_QE.T
    kept: list[int] = []
    budget_Q = budget_Q.copy()
    for place in range(len(query_QE)):
        nearest = max(kept, key=lambda other: cosine_QQ[place, other], default=None)
        if threshold < 1.0 and nearest is not None and cosine_QQ[place, nearest] > threshold:
            budget_Q[nearest] += budget_Q[place]
        else:
            kept.append(place)
    kept_Q = np.array(kept, np.int64)
    return kept_Q, budget_Q[kept_Q]
