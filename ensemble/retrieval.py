"""The `retrieval` node: encodes histories into pool slots and makes query embeddings.

Shapes: B rows of a batch, Q query embeddings of one row, E item width, C hidden width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ensemble.contract import (
    Arrays,
    Floats,
    check_bundle,
    check_sizes,
    stamp_bundle,
    unstack_histories,
)
from ensemble.encoding import HistoryEncoder
from ensemble.kv_pool import Handle, KVPool, slot_shape
from ensemble.loaded_bundle import LoadedBundle
from ensemble.settings import ServingSettings
from unipinrec import bundle
from unipinrec.data.history import History

HEAD_ROWS = 16
"""The head runs on multiples of this many rows, so that its kernels, and thus its rounding, stay the same."""


@dataclass(frozen=True, slots=True)
class RetrievalRow:
    """One user's history and request context."""

    history: History
    request_time: int
    surface: int


@dataclass(frozen=True, slots=True)
class Retrieved:
    """What the later nodes need of one encoded history."""

    query_QE: Floats
    handle: Handle


class RetrievalNode:
    """Owns this instance's KV pool."""

    def __init__(self, loaded: LoadedBundle, settings: ServingSettings, instance: str) -> None:
        self._bundle = loaded
        self._encode = HistoryEncoder(loaded, loaded.vocabulary())
        self._head = loaded.graph(bundle.RETRIEVAL_HEAD)
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
        times, surfaces = arrays["REQUEST_TIME"][:, 0], arrays["SURFACE"][:, 0]
        return [
            RetrievalRow(history, int(request_time), int(surface))
            for history, request_time, surface in zip(unstack_histories(arrays), times, surfaces, strict=True)
        ]

    @torch.inference_mode()
    def run(self, rows: Sequence[RetrievalRow]) -> list[Retrieved]:
        """One forward for all rows; slots are complete before their handles are returned."""
        hidden_BC, caches = self._encode([row.history for row in rows])
        query_BE = self._queries(hidden_BC, rows)
        handles = [self._keep(cache) for cache in caches]
        return [Retrieved(query[None], handle) for query, handle in zip(query_BE, handles, strict=True)]

    def pack(self, rows: Sequence[Retrieved]) -> dict[str, NDArray[Any]]:
        """The node's output tensors for one request."""
        return {
            "QUERY_EMBEDDINGS": np.stack([row.query_QE for row in rows]),
            "KV_HANDLE": np.stack([row.handle.to_array() for row in rows]),
            "BUNDLE_ID": stamp_bundle(self._bundle.id, len(rows)),
        }

    def count(self, rows: Sequence[Retrieved]) -> dict[str, int]:
        """What the node's metrics grow by."""
        return {"pool_full": sum(row.handle.epoch == 0 for row in rows)}

    def close(self) -> None:
        """Remove the pool."""
        self._pool.close()

    def _queries(self, hidden_BC: torch.Tensor, rows: Sequence[RetrievalRow]) -> Floats:
        count = -(-len(rows) // HEAD_ROWS) * HEAD_ROWS
        hidden = torch.zeros(count, hidden_BC.size(1))
        hidden[: len(rows)] = hidden_BC
        context = torch.zeros(2, count, dtype=torch.long)
        context[0, : len(rows)] = torch.tensor([row.request_time for row in rows])
        context[1, : len(rows)] = torch.tensor([row.surface for row in rows])
        query_BE: Floats = self._head(hidden, context[0], context[1])[: len(rows)].numpy()
        return query_BE

    def _keep(self, cache: torch.Tensor) -> Handle:
        length = cache.size(3)
        slot = self._pool.acquire()
        if slot is None:
            return self._pool.no_slot(length)
        self._pool.slot(slot)[:, :, :, :length] = cache
        return self._pool.publish(slot, length)
