"""The `scoring` node: action probabilities of candidates to one score each, sorted and cut.

It stands behind the last ranker of an ensemble, so that a ranker says only how likely each action is,
and what an action is worth is decided in one place.

Shapes: K candidates, A actions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from ensemble.arrays import PADDING, Floats, Int64s
from ensemble.loaded_bundle import LoadedBundle
from ensemble.nodes.checks import check_between
from ensemble.nodes.contract import SCORE_PADDING, Arrays, stack, stamp_bundle
from ensemble.nodes.seal import CANDIDATE_SEAL, POLICY_TICKET, PROBS_SEAL, Opened, Seal
from ensemble.nodes.utility import Choice, UtilityChooser, WeightRequest
from ensemble.policy.request_channel import Ticket
from ensemble.settings import ServingSettings
from ensemble.stores.served_items import ServedItems


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringRow:
    """The candidates of one user with their probabilities, and what is known of their weights."""

    candidate_row_K: Int64s
    origin_K: NDArray[np.int32]
    probability_KA: Floats
    first_KA: Floats | None
    """What the first ranker said; None where there is one ranker alone."""
    num_results: int
    weights: WeightRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """The answer for one user, best first."""

    item_id_K: Int64s
    score_K: Floats
    probability_KA: Floats
    first_KA: Floats | None
    origin_K: NDArray[np.int32]
    choice: Choice


class ScoringNode:
    """Weighs the probabilities of each candidate, sorts by score and then item id, and cuts."""

    def __init__(self, loaded: LoadedBundle, settings: ServingSettings) -> None:
        self._bundle = loaded
        self._seal = Seal(settings, loaded.id)
        self._items = ServedItems.open(loaded, settings)
        self.metrics = CollectorRegistry()
        self._utility = UtilityChooser(loaded, settings, self.metrics)

    def parse(self, arrays: Arrays) -> list[ScoringRow]:
        """Return a row for each user of one request. Raises what `Seal.open` and `check_between` do."""
        opened = self._seal.open(arrays, CANDIDATE_SEAL, PROBS_SEAL, POLICY_TICKET)
        check_between(arrays, self._bundle.manifest)
        return [self._row(arrays, user, row) for user, row in enumerate(opened)]

    def run(self, rows: Sequence[ScoringRow]) -> list[Scored]:
        """Return the answer of each row, without what has been removed meanwhile."""
        self._items.refresh()
        return [self._score(row, self._utility.choose(row.weights)) for row in rows]

    def pack(self, rows: Sequence[Scored]) -> dict[str, NDArray[Any]]:
        """Return the output tensors for one request."""
        first = [row.first_KA for row in rows if row.first_KA is not None]
        return {
            "ITEM_IDS": stack([row.item_id_K for row in rows], PADDING),
            "SCORES": stack([row.score_K for row in rows], SCORE_PADDING),
            "ACTION_PROBS": stack([row.probability_KA for row in rows], 0),
            **({"FIRST_ACTION_PROBS": stack(first, 0)} if first else {}),
            "RETRIEVED_BY": stack([row.origin_K for row in rows], 0),
            "USED_UTILITY_WEIGHTS": np.stack([row.choice.weight_A for row in rows]),
            "UTILITY_SOURCE": np.array([[row.choice.source.encode()] for row in rows], np.object_),
            "POLICY_DECISION": np.array([[row.choice.to_json()] for row in rows], np.object_),
            "BUNDLE_ID": stamp_bundle(self._bundle.id, len(rows)),
        }

    def close(self) -> None:
        """Release nothing: all that the node holds ends with the process."""

    def _row(self, arrays: Arrays, user: int, opened: Opened) -> ScoringRow:
        kept = arrays["CANDIDATE_ITEMS"][user] != PADDING
        return ScoringRow(
            candidate_row_K=arrays["CANDIDATE_ITEMS"][user][kept],
            origin_K=arrays["CANDIDATE_ORIGINS"][user][kept],
            probability_KA=arrays["CANDIDATE_PROBS"][user][kept],
            first_KA=arrays["FIRST_PROBS"][user][kept] if "FIRST_PROBS" in arrays else None,
            num_results=int(arrays["NUM_RESULTS"][user, 0]),
            weights=WeightRequest.of(arrays, user, Ticket.from_bytes(opened.content[POLICY_TICKET])),
        )

    def _score(self, row: ScoringRow, choice: Choice) -> Scored:
        score_K = (row.probability_KA * choice.weight_A).sum(axis=1)
        item_id_K = self._items.ids_of(row.candidate_row_K)
        order = np.lexsort((item_id_K, -score_K))
        order = order[~self._items.is_removed(row.candidate_row_K[order])][: row.num_results]
        return Scored(
            item_id_K=item_id_K[order],
            score_K=score_K[order],
            probability_KA=row.probability_KA[order],
            first_KA=None if row.first_KA is None else row.first_KA[order],
            origin_K=row.origin_K[order],
            choice=choice,
        )
