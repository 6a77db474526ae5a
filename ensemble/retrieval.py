"""The `retrieval` node: encodes histories into pool slots and makes query embeddings.

Shapes: B rows of a batch, C hidden width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ensemble.contract import (
    Arrays,
    check_bundle,
    check_sizes,
    stack,
    stamp_bundle,
    unstack_histories,
)
from ensemble.encoding import HistoryEncoder
from ensemble.generation import Asked, Queries, QueryGenerator
from ensemble.kv_pool import Handle, KVPool, slot_shape
from ensemble.loaded_bundle import LoadedBundle
from ensemble.settings import ServingSettings
from unipinrec.data.history import History


@dataclass(frozen=True, slots=True)
class RetrievalRow:
    """One user's history, and what is wanted."""

    history: History
    asked: Asked


@dataclass(frozen=True, slots=True)
class Retrieved:
    """What the later nodes need of one encoded history."""

    queries: Queries
    handle: Handle


class RetrievalNode:
    """Owns this instance's KV pool."""

    def __init__(self, loaded: LoadedBundle, settings: ServingSettings, instance: str) -> None:
        self._bundle = loaded
        self._encode = HistoryEncoder(loaded, loaded.vocabulary())
        self._generate = QueryGenerator(loaded)
        shape = slot_shape(loaded.manifest.model)
        self._pool = KVPool(settings.runtime_dir, instance, shape, settings.pool_slots, settings.lease_ms)

    def parse(self, arrays: Arrays) -> list[RetrievalRow]:
        """Rows of one request.

        Raises:
            InvalidInputError: more events than a history may have.
            BundleMismatchError: the request was assembled for another bundle.
        """
        check_bundle(arrays, self._bundle.id)
        check_sizes(arrays, self._bundle.manifest.model)
        return [
            RetrievalRow(
                history=history,
                asked=Asked(
                    request_time=int(arrays["REQUEST_TIME"][user, 0]),
                    surface=int(arrays["SURFACE"][user, 0]),
                    last_event_time=int(history.timestamp_N[-1]) if len(history) else 0,
                    num_results=int(arrays["NUM_RESULTS"][user, 0]),
                    outcome_weight_A=arrays["OUTCOME_WEIGHTS"][user],
                ),
            )
            for user, history in enumerate(unstack_histories(arrays))
        ]

    @torch.inference_mode()
    def run(self, rows: Sequence[RetrievalRow]) -> list[Retrieved]:
        """One forward for all rows; slots are complete before their handles are returned."""
        hidden_BC, caches = self._encode([row.history for row in rows])
        queries = self._generate([row.asked for row in rows], hidden_BC, caches)
        handles = [self._keep(cache) for cache in caches]
        return [Retrieved(made, handle) for made, handle in zip(queries, handles, strict=True)]

    def pack(self, rows: Sequence[Retrieved]) -> dict[str, NDArray[Any]]:
        """The node's output tensors for one request."""
        return {
            "QUERY_EMBEDDINGS": stack([row.queries.vector_QE for row in rows], 0),
            "QUERY_BUDGETS": stack([row.queries.budget_Q for row in rows], 0),
            "QUERY_ORIGINS": stack([row.queries.origin_Q for row in rows], 0),
            "KV_HANDLE": np.stack([row.handle.to_array() for row in rows]),
            "BUNDLE_ID": stamp_bundle(self._bundle.id, len(rows)),
        }

    def count(self, rows: Sequence[Retrieved]) -> dict[str, int]:
        """What the node's metrics grow by."""
        return {"pool_full": sum(row.handle.epoch == 0 for row in rows)}

    def close(self) -> None:
        """Remove the pool."""
        self._pool.close()

    def _keep(self, cache: torch.Tensor) -> Handle:
        length = cache.size(3)
        slot = self._pool.acquire()
        if slot is None:
            return self._pool.no_slot(length)
        self._pool.slot(slot)[:, :, :, :length] = cache
        return self._pool.publish(slot, length)
