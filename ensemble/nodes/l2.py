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
from ensemble.executors.second_ranker import SecondRanker, second_ranker_files
from ensemble.loaded_bundle import LoadedBundle
from ensemble.nodes.allocator import keep_freed_memory
from ensemble.nodes.checks import check_between
from ensemble.nodes.contract import LIFELONG, Arrays, stack, stamp_bundle, unstack_histories
from ensemble.settings import ServingSettings
from ensemble.stores.served_items import ServedItems
from unipinrec.models.common.offline import OfflineRequest


@dataclass(frozen=True, slots=True)
class L2Row:
    """One user's candidates, and what is known of the user."""

    candidate_row_K: Int64s
    request: OfflineRequest


class L2Node:
    """Ranks by a model that reads long histories."""

    def __init__(self, loaded: LoadedBundle, settings: ServingSettings, ranker: SecondRanker) -> None:
        """Raises `BundleError` if the bundle has no second ranker."""
        keep_freed_memory()
        self._bundle = loaded
        _, config = second_ranker_files(loaded)
        self._max_lifelong = config.max_events + config.max_impressions
        self._ranker = ranker
        self._items = ServedItems.open(loaded, settings)
        self.metrics = CollectorRegistry()
        self.metrics.register(ranker)

    def parse(self, arrays: Arrays) -> list[L2Row]:
        """Return a row for each user of one request. Raises what `check_between` does."""
        item_rows = self._items.refresh().rows
        check_between(arrays, self._bundle.manifest, item_rows=item_rows, max_lifelong=self._max_lifelong)
        return [
            L2Row(
                candidate_row_K=item_row_K[item_row_K != PADDING],
                request=OfflineRequest(
                    history=history,
                    request_time=int(arrays["REQUEST_TIME"][user, 0]),
                    surface=int(arrays["SURFACE"][user, 0]),
                ),
            )
            for user, (item_row_K, history) in enumerate(
                zip(arrays["CANDIDATE_ITEMS"], unstack_histories(arrays, LIFELONG), strict=True)
            )
        ]

    def run(self, rows: Sequence[L2Row]) -> list[Floats]:
        """Return probabilities [K, A] of each row's candidates."""
        return self._ranker.action_probabilities(
            [row.request for row in rows], [row.candidate_row_K for row in rows]
        )

    def pack(self, rows: Sequence[Floats]) -> dict[str, NDArray[Any]]:
        """Return the node's output tensors for one request."""
        return {
            "CANDIDATE_PROBS": stack(list(rows), 0),
            "BUNDLE_ID": stamp_bundle(self._bundle.id, len(rows)),
        }

    def close(self) -> None:
        """Release nothing: all that the node holds ends with the process."""
