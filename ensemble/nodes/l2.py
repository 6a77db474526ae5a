"""The `l2` node: candidates to the probability of each action once more, by the second ranker.

Each request's sequences come once, however many candidates it has.

Shapes: K candidates, A actions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from ensemble.arrays import PADDING, Floats, Int64s
from ensemble.executors.second_ranker import SecondRanker
from ensemble.loaded_bundle import LoadedBundle
from ensemble.nodes.allocator import keep_freed_memory
from ensemble.nodes.contract import Arrays, stack
from ensemble.nodes.seal import CANDIDATE_SEAL, PROBS_SEAL, SEALED_LIFELONG, Seal
from ensemble.nodes.sealed_history import SealedHistory
from ensemble.settings import ServingSettings
from ensemble.stores.served_items import ServedItems
from unipinrec.models.common.offline import OfflineRequest


@dataclass(frozen=True, slots=True)
class L2Row:
    """One user's candidates, and what is known of the user."""

    token: bytes
    candidate_row_K: Int64s
    request: OfflineRequest


@dataclass(frozen=True, slots=True)
class L2Ranked:
    """The action probabilities of one user's candidates, in the order of the candidates."""

    token: bytes
    probability_KA: Floats


class L2Node:
    """Ranks by a model that reads long histories."""

    def __init__(self, loaded: LoadedBundle, ranker: SecondRanker, settings: ServingSettings) -> None:
        """`ranker` computes."""
        keep_freed_memory()
        self._seal = Seal(settings, loaded.id)
        self._ranker = ranker
        self._items = ServedItems.open(loaded, settings)
        self.metrics = CollectorRegistry()
        self.metrics.register(ranker)

    def parse(self, arrays: Arrays) -> list[L2Row]:
        """Return a row for each user of one request. Raises what `Seal.open` does."""
        self._items.refresh()
        rows = []
        for user, opened in enumerate(self._seal.open(arrays, SEALED_LIFELONG, CANDIDATE_SEAL)):
            sealed = SealedHistory.from_bytes(opened.content[SEALED_LIFELONG])
            item_row_K = arrays["CANDIDATE_ITEMS"][user]
            request = OfflineRequest(
                history=sealed.history, request_time=sealed.request_time, surface=sealed.surface
            )
            rows.append(L2Row(opened.token, item_row_K[item_row_K != PADDING], request))
        return rows

    def run(self, rows: Sequence[L2Row]) -> list[L2Ranked]:
        """Return probabilities [K, A] of each row's candidates."""
        made = self._ranker.action_probabilities(
            [row.request for row in rows], [row.candidate_row_K for row in rows]
        )
        return [L2Ranked(row.token, probability_KA) for row, probability_KA in zip(rows, made, strict=True)]

    def pack(self, rows: Sequence[L2Ranked]) -> dict[str, NDArray[Any]]:
        """Return the node's output tensors for one request."""
        made = {"CANDIDATE_PROBS": stack([row.probability_KA for row in rows], 0)}
        return {**made, **self._seal.close(PROBS_SEAL, [row.token for row in rows], beside=made)}

    def close(self) -> None:
        """Release nothing: all that the node holds ends with the process."""
