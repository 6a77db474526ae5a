"""What the second ranker's node computes with, on whatever device; and the one of a CPU.

Shapes: K candidates, A actions.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import torch
from prometheus_client.metrics_core import Metric

from ensemble.arrays import Floats, Int64s
from ensemble.loaded_bundle import LoadedBundle
from ensemble.stores.served_items import ServedItems
from unipinrec.bundle import SECOND_RANKERS, WEIGHTS, BundleError
from unipinrec.models.common.offline import OfflineRequest
from unipinrec.models.transact.config import SecondRankerConfig
from unipinrec.models.transact.offline import OfflineSecondRanker
from unipinrec.models.transact.served import AddedItems, load_second_ranker


class SecondRanker(Protocol):
    """Ranks candidates by all that is known of their users."""

    def action_probabilities(
        self, requests: Sequence[OfflineRequest], candidates: Sequence[Int64s]
    ) -> list[Floats]:
        """Return probabilities [K, A] in float32 of each request's candidate rows [K], which may be none."""

    def collect(self) -> Iterable[Metric]:
        """Yield what it has counted, as a collector of Prometheus' library does."""


class CpuSecondRanker:
    """The trained module itself, over packed batches of any size."""

    def __init__(self, weights: Path, config: SecondRankerConfig, items: ServedItems | None = None) -> None:
        """Without `items`, those of the bundle alone are there."""
        self._ranker = OfflineSecondRanker(load_second_ranker(weights, config))
        self._items = items
        self._added = AddedItems(self._ranker) if items else None

    def action_probabilities(
        self, requests: Sequence[OfflineRequest], candidates: Sequence[Int64s]
    ) -> list[Floats]:
        """Return probabilities [K, A] of each request's candidate rows [K], which may be none."""
        if self._items is not None and self._added is not None:
            self._added.extend(*self._items.added(len(self._added)))
        with torch.inference_mode():
            found = self._ranker.action_probabilities(requests, candidates)
        return [probability_KA.numpy() for probability_KA in found]

    def collect(self) -> Iterable[Metric]:
        """Yield nothing: there is nothing of its own to count."""
        return ()


def second_ranker_files(loaded: LoadedBundle) -> tuple[Path, SecondRankerConfig]:
    """Return the file of a bundle's second ranker and its configuration. Raises `BundleError` if it has
    none."""
    found = loaded.second_ranker()
    if found is None:
        raise BundleError(f"bundle {loaded.id} holds no second ranker: {', '.join(SECOND_RANKERS)}")
    folder, config = found
    return folder / WEIGHTS, config
